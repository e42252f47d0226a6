package e2e

import (
	"net/http"
	"testing"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// Prometheus' own parser reads the metrics.
func TestMetrics(t *testing.T) {
	b := newBoard(t, hour, nil)
	r, err := http.NewRequest("GET", b.url+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(families["hypnos_errors_total"].GetMetric()); n < 30 {
		t.Errorf("%d codes of errors", n)
	}
	if n := len(families["hypnos_layer_snr"].GetMetric()); n != 9 {
		t.Errorf("%d layers", n)
	}
	if len(families) < 25 {
		t.Errorf("%d families", len(families))
	}
}
