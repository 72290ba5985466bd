package broker

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/coder/websocket"
)

// webServer returns an HTTP server that speaks nothing but MQTT over WebSocket [MQTT-6.0.0-1 to MQTT-6.0.0-4]. A browser's
// page is let in only from the same host and port (its Origin header says), so that a foreign page cannot steer the mower.
func (b *Broker) webServer() *http.Server {
	return &http.Server{
		Handler:           http.HandlerFunc(b.upgrade),
		ReadHeaderTimeout: b.limits.handshake,
		IdleTimeout:       b.limits.handshake,
		MaxHeaderBytes:    8 << 10,
		ErrorLog:          slog.NewLogLogger(b.log.Handler(), slog.LevelDebug),
	}
}

func (b *Broker) upgrade(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	closing := b.closing
	if !closing {
		b.running.Add(1)
	}
	b.mu.Unlock()
	if closing {
		http.Error(w, "shutting down", http.StatusServiceUnavailable)
		return
	}
	defer b.running.Done()
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		Subprotocols:    []string{"mqtt"},
		CompressionMode: websocket.CompressionDisabled,
	})
	if err != nil { // answered by Accept
		b.log.Info("websocket refused", "remote", r.RemoteAddr, "error", err)
		return
	}
	if ws.Subprotocol() != "mqtt" {
		_ = ws.Close(websocket.StatusPolicyViolation, "the subprotocol must be mqtt [MQTT-6.0.0-3]")
		return
	}
	ws.SetReadLimit(-1) // packet.Reader bounds what is read, whatever the frames
	b.serve(&wsConn{Conn: websocket.NetConn(context.Background(), ws, websocket.MessageBinary), ws: ws}, r.RemoteAddr)
}

// wsConn is a WebSocket as a stream.
type wsConn struct {
	net.Conn
	ws *websocket.Conn
}

// Close says goodbye by the WebSocket protocol, but does not wait long for an answer.
func (c *wsConn) Close() error {
	t := time.AfterFunc(200*time.Millisecond, func() { _ = c.ws.CloseNow() })
	defer t.Stop()
	return c.ws.Close(websocket.StatusNormalClosure, "")
}
