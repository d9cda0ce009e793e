package runs

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// ManifestVersion is the schema_version of manifest.json.
const ManifestVersion = 1

// PluginRecord says what played a role in a run.
type PluginRecord struct {
	Role    string `json:"role"`
	Name    string `json:"name"`
	Version string `json:"version"`
	Stage   string `json:"stage"`
	SHA256  string `json:"sha256"`
	Runtime string `json:"runtime,omitempty"`
	// Libraries are libtorch's and the plugin's own that it had loaded: SHA-256, or the size
	// of a large one, and versions that are known.
	Libraries map[string]string `json:"libraries,omitempty"`
	// Isolation says what was kept from the plugin.
	Isolation string `json:"isolation,omitempty"`
	// Parameters is the number of weights, Trainable those that training changes.
	Parameters int64 `json:"parameters"`
	Trainable  int64 `json:"trainable"`
}

// Manifest is manifest.json: where a run came from.
type Manifest struct {
	SchemaVersion int    `json:"schema_version"`
	Program       string `json:"program"`
	Version       string `json:"version"`
	GoVersion     string `json:"go_version"`
	Platform      string `json:"platform"`
	Task          string `json:"task"`
	Seed          uint64 `json:"seed"`
	Threads       int    `json:"threads"`
	Device        string `json:"device"`
	DataSpec      string `json:"data_spec"`
	DataSHA256    string `json:"data_sha256"`
	// Reports are where reports were read, ReportsSHA256 the hash of what was read there.
	Reports       string         `json:"reports,omitempty"`
	ReportsSHA256 string         `json:"reports_sha256,omitempty"`
	Attributes    []string       `json:"attributes,omitempty"`
	TextEncoder   string         `json:"text_encoder,omitempty"`
	Plugins       []PluginRecord `json:"plugins"`
	// StartedAt and EndedAt are UTC; EndedAt is empty while the run is going on or
	// when it was killed. Resumed counts how often it was taken up again.
	StartedAt string `json:"started_at"`
	EndedAt   string `json:"ended_at,omitempty"`
	Resumed   int    `json:"resumed,omitempty"`
	// Status is running, done, stopped or failed.
	Status string `json:"status"`
	// Notes are what plugins and data had to say, one line each. Warnings are those of
	// them that make the run's figures better than they should be, or a comparison void.
	Notes    []string `json:"notes,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
}

// statuses are those that Manifest.Status knows.
var statuses = []string{"running", "done", "stopped", "failed"}

// Now is the time as manifests hold it.
func Now() string { return time.Now().UTC().Format(time.RFC3339) }

// ReadManifest reads manifest.json of a run.
func ReadManifest(run string) (*Manifest, error) {
	path := filepath.Join(run, ManifestFile)
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("run manifest: %w", err)
	}
	m, err := parseManifest(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}

func parseManifest(data []byte) (*Manifest, error) {
	var m Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, err
	}
	if m.SchemaVersion != ManifestVersion {
		return nil, fmt.Errorf("schema_version is %d; this program reads %d", m.SchemaVersion, ManifestVersion)
	}
	if !slices.Contains(statuses, m.Status) {
		return nil, fmt.Errorf("status is %q, want %s", m.Status, strings.Join(statuses, ", "))
	}
	for i, p := range m.Plugins {
		if p.Role == "" || p.Parameters < 0 || p.Trainable < 0 || p.Trainable > p.Parameters {
			return nil, fmt.Errorf("plugins[%d]: role %q with %d weights, %d trained: want a role, and no more trained than there are", i, p.Role, p.Parameters, p.Trainable)
		}
	}
	return &m, nil
}
