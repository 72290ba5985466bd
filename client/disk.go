package client

import (
	"errors"
	"fmt"

	"github.com/lawnberry/lawnberry/internal/store"
)

// Keys in Options.Dir begin with one of these.
const (
	outboxKey  = 'o' // publications that the outbox has accepted
	ownerKey   = 'i' // the client id, alone
	requestKey = 'r' // commands that were executed, with their answers
)

// openDisk opens Options.Dir. Without one there is no store: nil.
func openDisk(o *Options) (*store.Store, error) {
	if o.Dir == "" {
		return nil, nil
	}
	s, err := store.Open(o.Dir, store.Options{Logger: o.Logger, FS: o.fs})
	if err != nil {
		return nil, fmt.Errorf("client directory: %w", err)
	}
	return s, nil
}

// load reads what a process before this one has left in Options.Dir.
func (c *Client) load() error {
	if err := c.claimDisk(); err != nil {
		return err
	}
	return errors.Join(c.loadSpool(), c.loadRequests())
}

// claimDisk refuses the directory of another client: packet identifiers mean nothing without their session.
func (c *Client) claimDisk() error {
	key := []byte{ownerKey}
	owner := ""
	if err := c.disk.Scan(key, func(_, value []byte) error { owner = string(value); return nil }); err != nil {
		return fmt.Errorf("client directory %s: %w", c.opts.Dir, err)
	}
	if owner == c.id {
		return nil
	}
	if owner != "" {
		return fmt.Errorf("client directory %s: it belongs to the client %s: give %s one of its own, or rename the directory if its messages are not wanted",
			c.opts.Dir, owner, c.id)
	}
	var b store.Batch
	b.Set(key, []byte(c.id))
	if err := c.disk.Commit(&b); err != nil {
		c.opts.Logger.Error("the client directory takes nothing", "dir", c.opts.Dir, "error", err)
	}
	return nil
}
