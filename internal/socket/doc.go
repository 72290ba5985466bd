// Package socket writes to a socket what it takes at once, so that a goroutine which has something to say can say it itself, and the
// writer goroutine of the connection is only needed for what would have to wait.
package socket
