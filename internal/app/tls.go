package app

// localURL is where what runs in this process finds the broker. One that requires a certificate of everybody on the network asks for none at
// its socket.
func (a *App) localURL(o Options) string {
	if t := o.Config.Broker.TLS; a.broker != nil && t.Enabled && t.RequireCertificate {
		for e := range a.broker.Endpoints() {
			if e.Network == "unix" {
				return e.URL
			}
		}
	}
	return a.url
}
