package client

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// A deadlineContext is what context.WithDeadline is, whether or not somebody waits for it, and contexts derived from it end with it.
func TestDeadlineContext(t *testing.T) {
	t.Parallel()
	for name, waits := range map[string]bool{"nobody waits": false, "somebody waits": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				type key struct{}
				parent, cancel := context.WithCancel(context.WithValue(context.Background(), key{}, 7))
				defer cancel()
				made := func() (*deadlineContext, context.Context) {
					d := new(deadlineContext)
					d.begin(parent, time.Now().Add(time.Second))
					var derived context.Context = d
					if waits {
						var stop context.CancelFunc
						derived, stop = context.WithCancel(d)
						t.Cleanup(stop)
					}
					return d, derived
				}
				ended := func(d *deadlineContext, derived context.Context, want error) {
					t.Helper()
					synctest.Wait()
					if err := d.Err(); !errors.Is(err, want) {
						t.Errorf("ends with %v, want %v", err, want)
					}
					if err := derived.Err(); !errors.Is(err, want) {
						t.Errorf("what is derived from it ends with %v, want %v", err, want)
					}
					if want != nil {
						<-d.Done()
						<-derived.Done()
						if err := context.Cause(d); !errors.Is(err, want) {
							t.Errorf("its cause is %v, want %v", err, want)
						}
					}
				}

				d, derived := made()
				if at, ok := d.Deadline(); !ok || time.Until(at) != time.Second || derived.Value(key{}) != 7 {
					t.Error(at, ok, derived.Value(key{}))
				}
				time.Sleep(time.Second - 1)
				ended(d, derived, nil)
				time.Sleep(time.Nanosecond)
				ended(d, derived, context.DeadlineExceeded)
				d.stop()
				ended(d, derived, context.DeadlineExceeded)

				d, derived = made()
				d.stop()
				ended(d, derived, context.Canceled)
				time.Sleep(2 * time.Second)
				ended(d, derived, context.Canceled)

				d, derived = made()
				cancel()
				ended(d, derived, context.Canceled)
				d.stop()
			})
		})
	}
}
