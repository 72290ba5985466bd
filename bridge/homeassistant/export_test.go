package homeassistant

import "time"

// WithPatience has all readings expire after that silence.
func (o Options) WithPatience(d time.Duration) Options { o.patience = d; return o }
