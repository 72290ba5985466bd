package service

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/loglevel"
	"github.com/lawnberry/lawnberry/message"
)

const levelText = "Tells the levels of the service's log, and sets or resets one, until it is started again. A service may not offer it, and refuses then."

// levelQuery are the parameters of log_level. Without any it tells the levels.
type levelQuery struct {
	Package string  `json:"package" doc:"part of the program, or general, which is what an empty one sets; with reset an empty one is all"`
	Level   string  `json:"level" doc:"debug, info, warn or error"`
	For     float64 `json:"for" doc:"seconds after which the level goes back by itself; 0 is never"`
	Reset   bool    `json:"reset" doc:"take back what was set"`
}

// Validate implements what decodeParameters asks for.
func (q *levelQuery) Validate() error {
	switch {
	case q.Reset && (q.Level != "" || q.For != 0):
		return errors.New("parameters.reset goes with neither level nor for")
	case q.Level == "" && q.For != 0:
		return errors.New("parameters.for wants a level")
	case !q.Reset && q.Level == "" && q.Package != "":
		return errors.New("parameters.package wants a level, or reset")
	case q.For < 0 || q.For > loglevel.MaxTime.Seconds() || q.For > 0 && q.For < 0.001:
		return fmt.Errorf("parameters.for must be seconds from 0.001 to %.0f, or 0", loglevel.MaxTime.Seconds())
	}
	return nil
}

// levelAnswer is the result of log_level.
type levelAnswer struct {
	Levels []packageLevel `json:"levels"` // the general one first
}

type packageLevel struct {
	Package string   `json:"package"`
	Level   string   `json:"level" doc:"debug, info, warn or error"`
	Source  string   `json:"source" doc:"general: it follows the general one; configured; set: by this command"`
	Until   *float64 `json:"until,omitempty" doc:"Unix seconds when it goes back by itself"`
}

// logLevel runs log_level.
func (s *Service) logLevel(raw json.RawMessage) (any, error) {
	refuse := func(code, text string) error {
		return &client.CommandError{Service: s.o.ID, Command: "log_level", Code: code, Message: text}
	}
	levels := s.o.LogLevels
	if levels == nil {
		return nil, refuse(client.CodeRefused, "the levels of its log cannot be changed while it runs: the service does not offer it")
	}
	q, err := decodeParameters[levelQuery](raw)
	if err != nil {
		return nil, refuse(client.CodeBadParameters, err.Error())
	}
	switch {
	case q.Reset:
		err = levels.Reset(q.Package)
	case q.Level != "":
		if q.Package == "" {
			q.Package = loglevel.General
		}
		level, bad := loglevel.Parse(q.Level)
		if err = bad; err == nil {
			err = levels.Set(q.Package, level, time.Duration(q.For*float64(time.Second)))
		}
	}
	if err != nil {
		return nil, refuse(client.CodeBadParameters, err.Error())
	}
	if q.Reset || q.Level != "" {
		s.log.Info("log levels changed by command", "of", q.Package, "level", q.Level, "reset", q.Reset, "seconds", q.For)
	}
	a := levelAnswer{Levels: []packageLevel{}}
	for _, l := range levels.All() {
		p := packageLevel{Package: l.Package, Level: loglevel.Name(l.Level), Source: l.Source}
		if !l.Until.IsZero() {
			until := message.Seconds(l.Until)
			p.Until = &until
		}
		a.Levels = append(a.Levels, p)
	}
	return a, nil
}
