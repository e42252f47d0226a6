// What the generators of arm64 assembly share is a module of its own, as they are.
module hypnos/backends/internal/neon

go 1.26.0
