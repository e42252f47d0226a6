package server

import (
	"net/http"

	"hypnos/server/brain"
)

// route is a path with its method.
type route struct {
	method, path string
	open         bool // without a token, and for pages of other sites
	page         bool // for people: not part of the API
	unlimited    bool // not counted by the limit of requests
	codes        []brain.Code
	serve        func(http.ResponseWriter, *http.Request) error
}

// pattern is the path for http.ServeMux, where a path that ends on a slash would be all below it.
func (r route) pattern() string {
	if r.path == "/" {
		return "/{$}"
	}
	return r.path
}

// guards are the codes of admit.
func (r route) guards() []brain.Code {
	codes := []brain.Code{CodeHost}
	if !r.unlimited {
		codes = append(codes, CodeRate)
	}
	if !r.open {
		codes = append(codes, CodeOrigin, CodeUnauthorized, brain.CodeStopping)
	}
	return codes
}

// table is every route with the codes that it can give, beside those of its guards and CodeInternal.
func (s *Server) table() []route {
	body := []brain.Code{CodeBody, CodeSlow}
	image := append([]brain.Code{brain.CodeImageType, brain.CodeImageTooLong, brain.CodeImagePixels, brain.CodeImageBroken,
		brain.CodeTensor, brain.CodeBusy, brain.CodeNoModel, CodeTimeout, CodeParameter}, body...)
	reason := append([]brain.Code{CodeMediaType, CodeTooLong, CodeJSON, CodeTimeout}, body...)
	with := func(codes []brain.Code, more ...brain.Code) []brain.Code {
		return append(codes[:len(codes):len(codes)], more...)
	}
	return append(pages(), []route{
		{method: "POST", path: "/v1/classify", serve: s.classify, codes: image},
		{method: "POST", path: "/v1/learn", serve: s.learn,
			codes: with(image, brain.CodeLabel, brain.CodeNotDurable, brain.CodeStorage, CodeMultipart)},
		{method: "POST", path: "/v1/sleep", serve: s.sleep, codes: with(reason, brain.CodeNoModel)},
		{method: "POST", path: "/v1/wake", serve: s.wake, codes: reason},
		{method: "GET", path: "/v1/status", serve: s.status},
		{method: "GET", path: "/v1/history", serve: s.showHistory},
		{method: "GET", path: "/v1/events", serve: s.stream, codes: []brain.Code{brain.CodeBusy, CodeParameter}},
		{method: "GET", path: "/v1/model", serve: s.export, codes: []brain.Code{brain.CodeBusy, brain.CodeNoModel, brain.CodeStorage}},
		{method: "POST", path: "/v1/model", serve: s.upload, codes: with(body, CodeMediaType, CodeTooLong, brain.CodePackage,
			brain.CodeSignature, brain.CodeKey, brain.CodeDowngrade, brain.CodeBoard, brain.CodeBusy, brain.CodeStorage)},
		{method: "POST", path: "/v1/model/activate", serve: s.activate, codes: with(reason, brain.CodeNoModel, brain.CodeTrial,
			brain.CodePackage, brain.CodeBusy, brain.CodeStorage)},
		{method: "POST", path: "/v1/model/rollback", serve: s.rollback, codes: with(reason, brain.CodeNoModel, brain.CodePackage,
			brain.CodeBusy, brain.CodeStorage)},
		{method: "GET", path: "/metrics", serve: s.showMetrics},
		{method: "GET", path: "/healthz", serve: s.healthy, open: true, unlimited: true},
		{method: "GET", path: "/openapi.json", serve: s.describe, open: true},
		{method: "GET", path: "/readyz", serve: s.ready, open: true, unlimited: true, codes: []brain.Code{CodeNotReady, brain.CodeStopping}},
	}...)
}
