package doctor_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/internal/doctor"
	"github.com/lawnberry/lawnberry/internal/pki"
)

var update = flag.Bool("update", false, "write the table of docs/doctor.md anew")

// The table of docs/doctor.md is that of the code. -update writes it.
func TestDocument(t *testing.T) {
	const begin, end = "<!-- kinds -->\n", "<!-- end of kinds -->\n"
	path := filepath.Join("..", "..", "docs", "doctor.md")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(text), begin)
	_, after, ended := strings.Cut(rest, end)
	if !found || !ended {
		t.Fatalf("%s has no place for the table", path)
	}
	want := before + begin + kindTable() + end + after
	if string(text) == want {
		return
	}
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Errorf("the table of %s is not that of the code: go test ./internal/doctor -run Document -update writes it", path)
}

func kindTable() string {
	var b strings.Builder
	b.WriteString("| Check | Finding | | What | Why it matters | What repairs it |\n|---|---|---|---|---|---|\n")
	for k := range doctor.Kinds() {
		why := k.Why
		if why == "" {
			why = "it is said with the finding"
		}
		fix := "`" + k.Example() + "`"
		if k.Advice != "" {
			fix += "; " + k.Advice
		}
		fmt.Fprintf(&b, "| %s | `%s` | %s | %s | %s | %s |\n", k.Check, k.ID, k.Severity, k.Means, why, fix)
	}
	return b.String()
}

// Every kind says all, and has an id of its own.
func TestKinds(t *testing.T) {
	var ids []string
	for k := range doctor.Kinds() {
		if k.Check == "" || k.Means == "" || k.Command == "" || slices.Contains(ids, k.ID) ||
			!slices.Contains([]doctor.Severity{doctor.Error, doctor.Warning, doctor.Note}, k.Severity) || strings.ContainsAny(k.Example(), "{}") {
			t.Errorf("%+v", k)
		}
		ids = append(ids, k.ID)
	}
	if len(ids) < 40 {
		t.Errorf("only %d kinds", len(ids))
	}
}

// Whoever is told that a certificate expires is told to run lawnberry cert renew --due, which has something to do then.
func TestCertificatesAreDue(t *testing.T) {
	days := pki.DueWithin / (24 * time.Hour)
	rules, err := os.ReadFile("../../deploy/prometheus/lawnberry.rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("lawnberry_broker_certificate_expiry_timestamp_seconds - time() < %d * 86400\n", days); !strings.Contains(string(rules), want) {
		t.Errorf("no alert says %s", want)
	}
	for k := range doctor.Kinds() {
		if k.ID == "certificate-expiring" && !strings.Contains(k.Means, fmt.Sprintf("within %d days", days)) {
			t.Errorf("%q, want %d days", k.Means, days)
		}
	}
}
