// Package pages tells the requests of our own pages from those of others.
package pages

import (
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
)

// Host returns the name that a request has for this machine, and whether it is one whoever runs the name service: an address, localhost, the
// machine's own name (also with .local), or one of names. A name that somebody else points here (DNS rebinding) is none.
func Host(r *http.Request, names []string) (name string, ours bool) {
	name = r.Host
	if host, _, err := net.SplitHostPort(name); err == nil {
		name = host
	}
	name = strings.ToLower(name)
	if _, err := netip.ParseAddr(strings.Trim(name, "[]")); err == nil || name == "localhost" {
		return name, true
	}
	if own, err := os.Hostname(); err == nil {
		own = strings.ToLower(own)
		if name == own || name == own+".local" {
			return name, true
		}
	}
	return name, slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, name) })
}

// Origin reports whether the page that makes a request, by its Origin, is of the host that the request goes to, or one of others
// ("https://mower.example"). Programs that are no browsers send none: then some is false.
func Origin(r *http.Request, others []string) (ours, some bool) {
	origins := r.Header.Values("Origin")
	if len(origins) != 1 {
		return false, len(origins) > 0
	}
	// Either scheme: a proxy may have ended TLS, and paho-mqtt says https in any case.
	allowed := append([]string{"http://" + r.Host, "https://" + r.Host}, others...)
	return slices.ContainsFunc(allowed, func(o string) bool { return strings.EqualFold(o, origins[0]) }), true
}
