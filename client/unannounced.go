package client

import (
	"context"
	"errors"
	"time"
)

const (
	askAfter  = 250 * time.Millisecond // without an answer, a target that nobody knows is asked whether it is there
	askExpire = 2 * time.Second        // how long it has to say so
)

// Unannounced says that no service has announced itself by the target's name, so that there may be none. When the broker does not
// say that nobody serves it (over MQTT 3.1.1 none does, Mosquitto does not at QoS 2, and none does while somebody listens to "#"),
// Call asks the target with a ping, which every service answers. Without an answer within two seconds it ends with the code
// no_such_service: it is not known then whether somebody has run the command.
func Unannounced() CallOption { return func(o *calling) { o.unannounced = true } }

// askTarget ends k when target does not answer. stop ends the asking.
func (c *Client) askTarget(k *call) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	t := time.AfterFunc(askAfter, func() {
		ctx, cancel := context.WithTimeout(ctx, askExpire)
		defer cancel()
		var e *CommandError
		if err := c.Call(ctx, k.target, "ping", nil, nil, AtLeastOnce()); !errors.As(err, &e) || e.Code != CodeTimeout && e.Code != CodeNoSuchService {
			return
		}
		k.finish(callResult{err: &CommandError{Service: k.target, Command: k.command, Code: CodeNoSuchService,
			Message: "no such service: none has announced itself as " + k.target + ", and nobody answers: outcome unknown"}})
	})
	return func() {
		t.Stop()
		cancel()
	}
}
