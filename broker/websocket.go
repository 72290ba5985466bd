package broker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/coder/websocket"

	"github.com/lawnberry/lawnberry/internal/pages"
)

// rawConn is the key of the network connection in a request's context.
type rawConn struct{}

// webServer returns an HTTP server that speaks nothing but MQTT over WebSocket [MQTT-6.0.0-1 to MQTT-6.0.0-4]. A browser's
// page is let in as the listener says, so that a foreign page cannot steer the mower.
func (b *Broker) webServer(l Listener) *http.Server {
	return &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if why := l.foreign(r); why != "" {
				b.log.Warn("websocket refused: "+why, "remote", r.RemoteAddr, "host", r.Host, "origin", r.Header.Get("Origin"))
				http.Error(w, why, http.StatusForbidden)
				return
			}
			b.upgrade(w, r)
		}),
		ReadHeaderTimeout: b.limits.handshake,
		IdleTimeout:       b.limits.handshake,
		MaxHeaderBytes:    8 << 10,
		ErrorLog:          slog.NewLogLogger(b.log.Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, nc net.Conn) context.Context {
			return context.WithValue(ctx, rawConn{}, nc)
		},
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
	if r.Header.Get("Upgrade") != "" && !offersMQTT(r.Header) {
		b.log.Info("websocket refused: subprotocol mqtt not offered", "remote", r.RemoteAddr)
		http.Error(w, "the WebSocket subprotocol must be mqtt [MQTT-6.0.0-3]", http.StatusBadRequest)
		return
	}
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		Subprotocols:    []string{"mqtt"},
		CompressionMode: websocket.CompressionDisabled,

		InsecureSkipVerify: true, // the listener has looked at the origin
	})
	if err != nil { // answered by Accept
		b.log.Info("websocket refused", "remote", r.RemoteAddr, "error", err)
		return
	}
	ws.SetReadLimit(-1) // packet.Reader bounds what is read, whatever the frames
	raw := r.Context().Value(rawConn{}).(net.Conn)
	b.serve(&wsConn{Conn: raw, ws: ws, farewell: b.limits.farewell, status: websocket.StatusNormalClosure}, originOf("ws", raw))
}

// foreign reports why r, which may come from a browser's page, is none of ours; "" when it may come in. Programs that send no
// Origin are no browsers.
func (l *Listener) foreign(r *http.Request) string {
	page, some := pages.Origin(r, l.Origins)
	if !some {
		return ""
	}
	if name, ours := pages.Host(r, l.Hosts); !ours {
		return fmt.Sprintf("the host %q is not this mower's: see broker.websockets.hosts", name)
	}
	if !page {
		return "pages of that origin are not let in: see broker.websockets.origins"
	}
	return ""
}

// offersMQTT reports whether the client offers the subprotocol [MQTT-6.0.0-3].
func offersMQTT(h http.Header) bool {
	for _, list := range h.Values("Sec-WebSocket-Protocol") {
		for protocol := range strings.SplitSeq(list, ",") {
			if strings.EqualFold(strings.TrimSpace(protocol), "mqtt") {
				return true
			}
		}
	}
	return false
}

// wsConn is a WebSocket as a stream. Its deadlines are those of the network connection below it.
type wsConn struct {
	net.Conn // below the WebSocket
	ws       *websocket.Conn
	farewell time.Duration
	message  io.Reader            // the one being read
	status   websocket.StatusCode // to close with; the last Read sets it
}

// Read reads from one binary message after the other; where one ends means nothing [MQTT-6.0.0-2].
func (c *wsConn) Read(p []byte) (int, error) {
	for {
		if c.message == nil {
			kind, r, err := c.ws.Reader(context.Background())
			if err != nil {
				return 0, endOfStream(err)
			}
			if kind != websocket.MessageBinary {
				c.status = websocket.StatusUnsupportedData
				return 0, errors.New("a WebSocket text message [MQTT-6.0.0-1]")
			}
			c.message = r
		}
		n, err := c.message.Read(p)
		if err == io.EOF {
			c.message, err = nil, nil
			if n == 0 {
				continue
			}
		}
		return n, endOfStream(err)
	}
}

// endOfStream turns the peer's goodbye into io.EOF.
func endOfStream(err error) error {
	switch websocket.CloseStatus(err) {
	case websocket.StatusNormalClosure, websocket.StatusGoingAway, websocket.StatusNoStatusRcvd:
		return io.EOF
	}
	return err
}

// Write sends p as one binary message.
func (c *wsConn) Write(p []byte) (int, error) {
	if err := c.ws.Write(context.Background(), websocket.MessageBinary, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Close says goodbye by the WebSocket protocol; the peer has a moment to answer.
func (c *wsConn) Close() error {
	_ = c.SetDeadline(time.Now().Add(c.farewell))
	return c.ws.Close(c.status, "")
}
