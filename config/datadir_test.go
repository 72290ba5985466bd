package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDataDir(t *testing.T) {
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name    string
		environ []string
		system  bool
		want    string
	}{
		{"named", []string{"LAWNBERRY_DATA_DIR=/data", "XDG_STATE_HOME=/xdg", "HOME=/home/me"}, true, "/data"},
		{"named, relative", []string{"LAWNBERRY_DATA_DIR=data"}, false, filepath.Join(here, "data")},
		{"named empty", []string{"LAWNBERRY_DATA_DIR=", "HOME=/home/me"}, false, "/home/me/.local/state/lawnberry"},
		{"root, or one of the group", []string{"XDG_STATE_HOME=/xdg", "HOME=/root"}, true, "/var/lib/lawnberry"},
		{"XDG", []string{"XDG_STATE_HOME=/xdg", "HOME=/home/me"}, false, "/xdg/lawnberry"},
		{"XDG, relative", []string{"XDG_STATE_HOME=xdg", "HOME=/home/me"}, false, "/home/me/.local/state/lawnberry"},
		{"home", []string{"HOME=/home/me"}, false, "/home/me/.local/state/lawnberry"},
		{"set twice", []string{"HOME=/home/you", "HOME=/home/me"}, false, "/home/me/.local/state/lawnberry"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := dataDir(tt.environ, tt.system)
			if err != nil || got != tt.want {
				t.Errorf("got %q, %v, want %q", got, err, tt.want)
			}
		})
	}
	if dir, err := dataDir(nil, false); err == nil || !strings.Contains(err.Error(), "LAWNBERRY_DATA_DIR") {
		t.Errorf("without a home: %q, %v", dir, err)
	}
}

func TestSocketPath(t *testing.T) {
	for dir, want := range map[string]string{
		"":                            "",
		"/data":                       "/data/lawnberry.sock",
		"/" + strings.Repeat("d", 87): "/" + strings.Repeat("d", 87) + "/lawnberry.sock",
		"/" + strings.Repeat("d", 88): "",
	} {
		if got := SocketPath(dir); got != want {
			t.Errorf("%q has %q, want %q", dir, got, want)
		}
	}
}
