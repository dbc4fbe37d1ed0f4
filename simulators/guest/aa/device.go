package aa

import (
	"context"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/coco-e2e/coco-e2e/simulators/tee/message"
)

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// deviceTimeout bounds one request to simulated hardware.
const deviceTimeout = 30 * time.Second

// ask sends one request to simulated SNP or TDX hardware.
func ask(ctx context.Context, device string, code uint32, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, deviceTimeout)
	defer cancel()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", device)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", device, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	answer, err := message.Call(conn, code, body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", device, err)
	}
	return answer, nil
}

// fitted is a digest cut or zero-padded to the size of a register that hosts set at launch.
func fitted(digest []byte, size int) []byte {
	out := make([]byte, size)
	copy(out, digest)
	return out
}
