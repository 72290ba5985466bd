package client

import (
	"crypto/x509"
	"errors"
	"net"
	"strings"
	"time"
)

// tlsHint says what a person can do about a certificate that one side did not accept, "" when it was not that.
func tlsHint(err error) string {
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &name):
		return "connect to one of the names that the broker's certificate is for (client.broker_host), or issue one for this name (broker.tls.cert_file)"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		if invalid.Cert != nil && time.Now().Before(invalid.Cert.NotBefore) {
			return "the broker's certificate (broker.tls.cert_file) is not valid yet: check the clock of this machine"
		}
		return "the broker's certificate (broker.tls.cert_file) has expired: renew it, or check the clock of this machine"
	case errors.As(err, &invalid) && invalid.Reason == x509.IncompatibleUsage:
		return "the broker's certificate (broker.tls.cert_file) is not one for a broker"
	case refusedByBroker(err) && strings.Contains(err.Error(), "certificate required"):
		return "the broker wants a certificate of this client (client.tls.certfile, client.tls.keyfile): lawnberry cert issue makes one"
	case refusedByBroker(err):
		return "the broker does not accept this client's certificate (client.tls.certfile, client.tls.keyfile), and its log says why"
	}
	return ""
}

// refusedByBroker reports whether err is the broker's alert about a certificate. The alerts have no exported type, but all those that
// are about certificates, and no others, say so.
func refusedByBroker(err error) bool {
	var remote *net.OpError
	return errors.As(err, &remote) && remote.Op == "remote error" && strings.Contains(remote.Error(), "certificate")
}
