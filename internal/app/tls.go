package app

import (
	"crypto/tls"

	"github.com/lawnberry/lawnberry/config"
)

// localURL is where what runs in this process finds the broker. One that requires a certificate of everybody on the network asks for none at
// its socket.
func (a *App) localURL(o Options) string {
	if a.mosquitto != nil { // where nobody is asked for a login
		return a.mosquitto.SocketURL()
	}
	if t := o.Config.Broker.TLS; a.broker != nil && t.Enabled && t.RequireCertificate {
		for e := range a.broker.Endpoints() {
			if e.Network == "unix" {
				return e.URL
			}
		}
	}
	return a.url
}

// checkPair reports whether a certificate and its key can be used.
func checkPair(t config.ServerTLS) error {
	_, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
	return err
}
