package client

import (
	"fmt"

	"github.com/lawnberry/lawnberry/internal/store"
)

// Keys in Options.Dir begin with one of these.
const (
	outboxKey  = 'o' // publications that the outbox has accepted
	requestKey = 'r' // commands that were executed, with their answers
)

// openDisk opens Options.Dir. Without one there is no store: nil.
func openDisk(o *Options) (*store.Store, error) {
	if o.Dir == "" {
		return nil, nil
	}
	s, err := store.Open(o.Dir, store.Options{Logger: o.Logger})
	if err != nil {
		return nil, fmt.Errorf("client directory: %w", err)
	}
	return s, nil
}
