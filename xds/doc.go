// Package xds has no code of its own: it holds the tests that run the control plane against a real Envoy, and with them
// the facts about Envoy that the rest leans on. What is compiled, stored and served is in the packages below it.
package xds
