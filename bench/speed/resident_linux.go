package speed

import (
	"bufio"
	"fmt"
	"os"
	"strings"
)

// resetPeak makes the process's peak of resident memory what is resident now, which it returns, in bytes.
func resetPeak() (int64, error) {
	// proc_pid_clear_refs(5): 5 resets the peak.
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
		return 0, fmt.Errorf("speed: peak of resident memory: %w", err)
	}
	return peak()
}

// peak is the most memory that was resident since resetPeak, in bytes.
func peak() (int64, error) {
	const path = "/proc/self/status"
	f, err := os.Open(path)
	if err != nil {
		return 0, fmt.Errorf("speed: peak of resident memory: %w", err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if text, ok := strings.CutPrefix(s.Text(), "VmHWM:"); ok { // "  123 kB"
			var kilobytes int64
			if _, err := fmt.Sscanf(text, "%d kB", &kilobytes); err != nil {
				return 0, fmt.Errorf("speed: %s: VmHWM: %w", path, err)
			}
			return kilobytes << 10, nil
		}
	}
	return 0, fmt.Errorf("speed: %s has no VmHWM", path)
}
