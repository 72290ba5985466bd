// Package web is the bridge between the bus and browsers: a WebSocket with JSON both ways, and an HTTP API. docs/websocket.md describes the
// protocol, /api/openapi.json the API.
//
// It is a service of the bus, web_bridge, with one connection to the broker for all browsers. A browser may do what its user might over
// MQTT, and no more. One that does not read harms nobody: what waits for it is bounded, and of what is left out the latest value of each
// topic is kept; below safety/ nothing is left out, and it goes first. A page may drive a machine, as long as it is there and says what it wants.
package web
