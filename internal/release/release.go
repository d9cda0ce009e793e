// Package release holds the version that everything made in this repository has.
package release

// Version is that of the host, of the SDKs and of the plugins that lie beside them.
const Version = "0.2.0"
