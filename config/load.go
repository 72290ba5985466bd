package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// MaxFileSize is the longest file that Load reads, in bytes.
const MaxFileSize = 1 << 20

// Loaded is a configuration with where each value is from.
type Loaded struct {
	Config   *Config
	File     string   // "" without one
	Problems Problems // warnings only

	origins map[string]Origin
}

// Origin says where a value is from; its zero value is the default.
type Origin struct {
	File string `json:"file,omitempty"`
	Line int    `json:"line,omitempty"`
	Env  string `json:"env,omitempty"`

	column int
}

// String returns "default", "mower.yaml:12", or "environment LAWNBERRY_BROKER_PORT".
func (o Origin) String() string {
	switch {
	case o.Env != "":
		return "environment " + o.Env
	case o.File != "":
		return shorten(o.File) + ":" + strconv.Itoa(o.Line)
	default:
		return "default"
	}
}

// Origin returns where the value of a key ("broker.port") is from.
func (l *Loaded) Origin(path string) Origin { return l.origins[path] }

// Load reads the file at path, then the environment, which wins; environ is os.Environ(). An empty path is
// $LAWNBERRY_CONFIG, and without that no file: a valid configuration.
//
// The variable of a key is its path in capitals after LAWNBERRY_: LAWNBERRY_BROKER_PORT. Lists are separated by commas;
// keys that are mappings have no variable ([Key.Env] is empty). An empty variable counts as not set. MQTT_PASSWORD is
// broker.auth.password and client.auth.password, whatever else is set.
//
// A configuration that cannot be used gives an error of type [Problems], with all that is wrong and the warnings as well.
// A file that cannot be read gives another error, which wraps that of the file system.
func Load(path string, environ []string) (*Loaded, error) {
	if path == "" {
		path = getenv(environ, "LAWNBERRY_CONFIG")
	}
	if path == "" {
		return load("", nil, environ)
	}
	data, err := readFile(path)
	if err != nil {
		return nil, err
	}
	return load(path, data, environ)
}

// Parse is Load of a text that is no file.
func Parse(text []byte, environ []string) (*Loaded, error) { return load("", text, environ) }

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("configuration: %w: write one with lawnberry config init, or go without --config", err)
	}
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.IsDir() {
		return nil, fmt.Errorf("configuration: %s is a directory: name a file in it", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, MaxFileSize+1))
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	if len(data) > MaxFileSize {
		return nil, fmt.Errorf("configuration: %s is longer than %d bytes: is it the right file?", path, MaxFileSize)
	}
	return data, nil
}

// Salvage is Load for a look at what is wrong: it returns what can be used, always. A key with an error has its default, and Problems holds
// the errors too; they need not be all that there is, as rules between keys are not applied to a file that is not YAML. The error is that of a
// file that cannot be read, of which nothing is known then but the environment. The result must not be used to run anything.
func Salvage(path string, environ []string) (*Loaded, error) {
	if path == "" {
		path = getenv(environ, "LAWNBERRY_CONFIG")
	}
	var data []byte
	var err error
	if path != "" {
		data, err = readFile(path)
	}
	l := newLoader(path, data, environ)
	return &Loaded{Config: l.config, File: path, Problems: l.problems, origins: l.origins}, err
}

// load reads a file that is in memory already.
func load(file string, data []byte, environ []string) (*Loaded, error) {
	l := newLoader(file, data, environ)
	if err := l.problems.Err(); err != nil {
		return nil, err
	}
	return &Loaded{Config: l.config, File: file, Problems: l.problems, origins: l.origins}, nil
}

// newLoader reads a file that is in memory already, and the environment.
func newLoader(file string, data []byte, environ []string) *loader {
	l := &loader{
		schema: newSchema(), file: file, dir: filepath.Dir(file), config: Default(),
		origins: map[string]Origin{}, budget: maxNodes,
	}
	l.readYAML(data)
	l.readEnvironment(environ)
	if len(l.origins) > 0 {
		l.config.origins = l.origins
	}
	l.checkWhole()
	l.problems.sort()
	return l
}

// A loader is one run of load.
type loader struct {
	*schema
	file, dir string
	config    *Config
	origins   map[string]Origin
	problems  Problems
	budget    int  // nodes that may still be visited
	tooBig    bool // the budget's end was said
	broken    bool // the file is not YAML
}

// maxProblems bounds the list; a file with more is not a configuration.
const maxProblems = 100

func (l *loader) report(p Problem) {
	switch {
	case len(l.problems) < maxProblems:
		l.problems = append(l.problems, p)
	case len(l.problems) == maxProblems:
		l.problems = append(l.problems, Problem{Severity: SeverityError, File: l.file, Text: "there are more problems than are shown"})
	}
}

// at returns a problem with a key at the place where its value is from.
func (l *loader) at(sev Severity, path, text string) Problem {
	o := l.origins[path]
	return Problem{Severity: sev, File: o.File, Line: o.Line, Column: o.column, Env: o.Env, Key: path, Text: text}
}

// notSupported warns of the key when it asks for something that is not there yet.
func (l *loader) notSupported(s *spec) {
	if s.unsupported == "" || s.works != nil && s.works(l.config) {
		return
	}
	l.report(l.at(SeverityWarning, s.path, "not supported yet: "+s.unsupported))
}

// checkWhole does what takes all the values: warnings of what is not supported, and the rules between keys.
func (l *loader) checkWhole() {
	for _, s := range l.specs {
		if _, set := l.origins[s.path]; set {
			l.notSupported(s)
		}
	}
	if l.broken {
		return
	}
	for _, p := range l.config.Check() {
		at := l.at(p.Severity, p.Key, p.Text)
		at.Nearest = p.Nearest
		if at.File == "" && at.Env == "" {
			// The value is a default: what made it wrong is the key next to it that is set, at best the switch.
			at.File, at.Line, at.Column, at.Env = l.cause(p.Key)
		}
		l.report(at)
	}
}

// cause returns the place of the switch of key's section, or of any key there that is set.
func (l *loader) cause(key string) (file string, line, column int, env string) {
	section, _ := splitPath(key)
	o, ok := l.origins[joinPath(section, "enabled")]
	if !ok {
		for _, s := range l.specs {
			if set, found := l.origins[s.path]; found && strings.HasPrefix(s.path, section+".") {
				o = set
				break
			}
		}
	}
	if o == (Origin{}) {
		o.File = l.file
	}
	return o.File, o.Line, o.column, o.Env
}

// readEnvironment reads the variables of the keys.
func (l *loader) readEnvironment(environ []string) {
	env := map[string]string{}
	for _, e := range environ {
		if name, value, ok := strings.Cut(e, "="); ok && value != "" {
			env[name] = value
		}
	}
	for _, s := range l.specs {
		name := envName(s.path)
		value, set := env[name]
		delete(env, name)
		if !set {
			continue
		}
		if !s.inEnvironment() {
			l.report(Problem{Severity: SeverityWarning, Env: name, Key: s.path, Text: "a mapping cannot be set in the environment: set it in the file"})
			continue
		}
		l.setFromEnv(s, name, value)
	}
	if password := env["MQTT_PASSWORD"]; password != "" {
		l.setFromEnv(l.byPath["broker.auth.password"], "MQTT_PASSWORD", password)
		l.setFromEnv(l.byPath["client.auth.password"], "MQTT_PASSWORD", password)
	}
	for name := range maps.Keys(env) {
		l.unknownVariable(name)
	}
}

func (l *loader) setFromEnv(s *spec, name, value string) {
	why := ""
	if list, ok := s.at(l.config).(*[]string); ok {
		var texts []string
		for text := range strings.SplitSeq(value, ",") {
			text = strings.TrimSpace(text)
			if text == "" {
				continue
			}
			if w := s.checkText(text); w != "" && why == "" {
				why = w
			}
			texts = append(texts, text)
		}
		if why == "" {
			*list = texts
		}
	} else {
		if !s.secret() {
			value = strings.TrimSpace(value)
		}
		why = s.setText(l.config, value)
		if p, ok := s.at(l.config).(*string); ok && s.isPath && why == "" {
			*p, why = absolute(".", *p)
		}
	}
	if why != "" {
		l.report(Problem{Severity: SeverityError, Env: name, Key: s.path, Text: why})
		return
	}
	l.origins[s.path] = Origin{Env: name}
}

// absolute resolves a path against the directory it is relative to.
func absolute(dir, path string) (string, string) {
	if path == "" {
		return "", ""
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", "the current directory is gone, a relative path has no start: " + err.Error()
	}
	return abs, ""
}

// unknownVariable warns of a LAWNBERRY_ variable that is no key's.
func (l *loader) unknownVariable(name string) {
	if !strings.HasPrefix(name, "LAWNBERRY_") || strings.HasPrefix(name, "LAWNBERRY_TEST_") {
		return
	}
	switch name {
	case "LAWNBERRY_CONFIG", "LAWNBERRY_DATA_DIR", "LAWNBERRY_BROKER_URL", "LAWNBERRY_PASSWORD",
		"LAWNBERRY_FLEET_URL", "LAWNBERRY_FLEET_CREDENTIALS", "LAWNBERRY_FLEET_CA", "LAWNBERRY_FLEET_KEY":
		return
	}
	near := nearest(name, func(yield func(string) bool) {
		for _, s := range l.specs {
			if s.inEnvironment() && !yield(envName(s.path)) {
				return
			}
		}
	})
	l.report(Problem{Severity: SeverityWarning, Env: shorten(name), Text: "no key has this variable, it is ignored", Nearest: near})
}
