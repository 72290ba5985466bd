package metrics_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/lawnberry/lawnberry/metrics"
)

const page = "../docs/metrics.md"

var update = flag.Bool("update", false, "write the list of "+page+" anew")

// What stands around the list in the page.
const (
	listBegin = "<!-- the list: go test ./metrics -update -->\n"
	listEnd   = "<!-- end of the list -->\n"
)

// The page lists what there is.
func TestPage(t *testing.T) {
	var want strings.Builder
	want.WriteString("| Name | Type | Labels | Series at most | What |\n|---|---|---|---|---|\n")
	for f := range metrics.Families() {
		fmt.Fprintf(&want, "| `%s` | %s | %s | %d | %s |\n", f.Name, f.Type, strings.Join(f.Labels, ", "), f.MaxSeries, f.Help)
	}
	raw, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, begins := strings.Cut(string(raw), listBegin)
	list, after, ends := strings.Cut(rest, listEnd)
	if !begins || !ends {
		t.Fatalf("%s has no place for the list", page)
	}
	if *update {
		list = want.String()
		if err := os.WriteFile(page, []byte(before+listBegin+list+listEnd+after), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if list != want.String() {
		t.Errorf("%s lists something else: go test ./metrics -update", page)
	}
	if unknown, _ := unknownNames(string(raw)); len(unknown) > 0 {
		t.Errorf("%s names figures that there are not: %q", page, unknown)
	}
}

var (
	ours  = regexp.MustCompile(`\blawnberry_[a-z0-9_]+`)
	label = regexp.MustCompile(`\b(\w+)\s*(?:=~|!~|!=|=)\s*"`)
)

// unknownNames returns the names of figures that there are not, and how many names there are. Those that end with _ are beginnings of names.
func unknownNames(text string) (unknown []string, names int) {
	known := map[string]bool{}
	for f := range metrics.Families() {
		known[f.Name] = true
		if f.Type == "summary" {
			known[f.Name+"_count"], known[f.Name+"_sum"] = true, true
		}
	}
	for _, name := range ours.FindAllString(text, -1) {
		if strings.HasSuffix(name, "_") {
			continue
		}
		names++
		if !known[name] {
			unknown = append(unknown, name)
		}
	}
	return unknown, names
}

// problems returns what is wrong with an expression: names of figures and labels that there are not.
func problems(expression string) (found []string) {
	unknown, names := unknownNames(expression)
	for _, name := range unknown {
		found = append(found, "there is no "+name)
	}
	if names == 0 && !strings.Contains(expression, "process_") && !strings.Contains(expression, "go_") && !strings.Contains(expression, "up{") {
		found = append(found, "it shows nothing of ours")
	}
	labels := map[string]bool{"job": true, "instance": true, "quantile": true}
	for f := range metrics.Families() {
		for _, l := range f.Labels {
			labels[l] = true
		}
	}
	for _, m := range label.FindAllStringSubmatch(expression, -1) {
		if !labels[m[1]] {
			found = append(found, "there is no label "+m[1])
		}
	}
	if strings.Count(expression, "(") != strings.Count(expression, ")") || strings.Count(expression, "{") != strings.Count(expression, "}") {
		found = append(found, "brackets do not fit")
	}
	return found
}

func checkExpression(t *testing.T, where, expression string) {
	t.Helper()
	for _, p := range problems(expression) {
		t.Errorf("%s: %q: %s", where, expression, p)
	}
}

// The alerts are about figures that there are, and each says what to do.
func TestAlerts(t *testing.T) {
	const file = "../deploy/prometheus/lawnberry.rules.yml"
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var rules struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	d := yaml.NewDecoder(strings.NewReader(string(raw)))
	d.KnownFields(true)
	if err := d.Decode(&rules); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			checkExpression(t, r.Alert, r.Expr)
			if seen[r.Alert] || r.Alert == "" || r.Annotations["summary"] == "" || r.Annotations["action"] == "" {
				t.Errorf("%q: twice, or without a name, a summary or an action", r.Alert)
			}
			seen[r.Alert] = true
			if s := r.Labels["severity"]; s != "warning" && s != "critical" {
				t.Errorf("%s: severity %q", r.Alert, s)
			}
		}
	}
	if len(seen) < 10 {
		t.Errorf("%d alerts", len(seen))
	}
}

// The dashboard shows figures that there are, from the data source that its user chooses.
func TestDashboard(t *testing.T) {
	const file = "../deploy/grafana/lawnberry.json"
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		UID, Title string
		Panels     []struct {
			ID         int
			Title      string
			Type       string
			GridPos    struct{ X, Y, W, H int }
			Datasource struct{ UID string }
			Targets    []struct{ Expr string }
		}
		Templating struct {
			List []struct{ Name, Type string }
		}
	}
	if err := json.Unmarshal(raw, &board); err != nil {
		t.Fatal(err)
	}
	if len(board.Templating.List) == 0 || board.Templating.List[0].Type != "datasource" {
		t.Error("nobody can choose the data source")
	}
	ids := map[int]bool{}
	panels := 0
	for _, p := range board.Panels {
		if ids[p.ID] || p.Title == "" || p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("panel %d %q: its number is there twice, it has no title, or it does not fit", p.ID, p.Title)
		}
		ids[p.ID] = true
		if p.Type == "row" {
			continue
		}
		panels++
		if len(p.Targets) == 0 || p.Datasource.UID != "${datasource}" {
			t.Errorf("%s shows nothing, or of another data source", p.Title)
		}
		for _, x := range p.Targets {
			checkExpression(t, p.Title, x.Expr)
		}
	}
	if panels < 12 {
		t.Errorf("%d panels", panels)
	}
}

// A name or a label that there is not is found.
func TestProblems(t *testing.T) {
	for _, bad := range []string{"lawnberry_no_such_thing > 1", `lawnberry_service_state{client_id="x"}`, "sum(lawnberry_service_state", "1 > 0"} {
		if len(problems(bad)) != 1 {
			t.Errorf("%q has the problems %q, want one", bad, problems(bad))
		}
	}
}
