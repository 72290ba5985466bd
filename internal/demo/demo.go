// Package demo is a simulated mower: the physics of a machine, a lawn and a battery, and the seven services of a mower
// that exchange readings, commands, events and alerts about it over a real broker, through the public packages alone.
package demo

import (
	"context"
	"log/slog"

	"github.com/lawnberry/lawnberry/client"
)

// Options configure a demo.
type Options struct {
	Client client.Options // how to reach the broker; each service gets a copy with an id of its own
	Seed   uint64         // of everything random; 0 takes one from the clock
	Speed  float64        // simulated seconds per second for the mowing; 0 is 1
	Logger *slog.Logger   // nil is discarded
}

var serviceIDs = [...]string{"hardware_interface", "navigation", "power", "safety", "sensor_fusion", "vision", "weather"}

// Demo is a running demo. Its methods may be called concurrently.
type Demo struct{}

// Start starts the seven services, all at once, and returns when all of them are healthy and the mower mows.
func Start(ctx context.Context, o Options) (*Demo, error) { panic("being written") }

// Stop ends everything.
func (d *Demo) Stop(ctx context.Context) error { panic("being written") }

// Snapshot returns what the live view shows.
func (d *Demo) Snapshot() View { panic("being written") }

// Summary returns the totals.
func (d *Demo) Summary() Summary { panic("being written") }

// Rates returns the rate limits that the demo needs.
func Rates() map[string]int { panic("being written") }
