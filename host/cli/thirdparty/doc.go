// Package thirdparty does in its tests what people do who write plugins and never open the
// host: they follow the guide, begin projects, check, install and debug them, and make
// every mistake. The tests build plugins outside the module and know them by their
// programs only.
package thirdparty
