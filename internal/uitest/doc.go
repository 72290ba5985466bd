// Package uitest tests the dashboard in a browser, against a running demo. It has nothing but tests.
package uitest
