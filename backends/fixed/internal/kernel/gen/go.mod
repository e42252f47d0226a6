// The generator of the amd64 assembly has a module of its own, so that users of hypnos do not depend on avo.
module hypnos/backends/fixed/internal/kernel/gen

go 1.26.0

require (
	github.com/mmcloughlin/avo v0.5.0
	hypnos/backends/internal/neon v0.0.0
)

require (
	golang.org/x/mod v0.6.0 // indirect
	golang.org/x/sys v0.1.0 // indirect
	golang.org/x/tools v0.2.0 // indirect
)

replace hypnos/backends/internal/neon => ../../../../internal/neon
