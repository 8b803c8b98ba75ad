package dnsclient

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	configAge  = 30 * time.Second
	configSize = 64 << 10
)

// configFile is a resolv.conf(5) that is read again when it may have changed,
// as it does when a laptop or a container moves.
type configFile struct {
	path string
	now  func() time.Time

	mu   sync.Mutex
	read time.Time
	last []server
}

// servers returns the servers of the file. While it cannot be read, those of
// the last time it could be stand.
func (f *configFile) servers() ([]server, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.now()
	// A clock set back makes what is known look younger than new.
	if age := now.Sub(f.read); f.last != nil && 0 <= age && age <= configAge {
		return f.last, nil
	}
	file, err := os.Open(f.path)
	if err == nil {
		var servers []server
		servers, err = parseConfig(io.LimitReader(file, configSize))
		file.Close()
		if err == nil {
			f.last = servers
		}
	}
	if f.last == nil {
		return nil, fmt.Errorf("no DNS servers known: %w", err)
	}
	f.read = now
	return f.last, nil
}

// parseConfig reads the first three usable nameserver lines. Search domains and
// ndots are not for names that are complete.
func parseConfig(r io.Reader) ([]server, error) {
	var servers []server
	trustAD := false
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			addr, err := netip.ParseAddr(fields[1])
			if err != nil || len(servers) == MaxServers {
				continue
			}
			servers = append(servers, server{
				addr:    netip.AddrPortFrom(addr, 53).String(),
				trustAD: addr.Unmap().IsLoopback(),
			})
		case "options":
			trustAD = trustAD || slices.Contains(fields[1:], "trust-ad")
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(servers) == 0 {
		return nil, errors.New("no nameserver in the configuration")
	}
	for i := range servers {
		servers[i].trustAD = servers[i].trustAD || trustAD
	}
	return servers, nil
}
