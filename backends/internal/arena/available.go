package arena

import (
	"bufio"
	"os"
	"strconv"
	"strings"
)

// Available is how many bytes of memory the machine can give without swapping, or the process's control group where that
// has less left; ok is false where the system does not tell (other than Linux).
func Available() (bytes int64, ok bool) {
	return available("/proc/meminfo", "/sys/fs/cgroup")
}

func available(meminfo, cgroup string) (bytes int64, ok bool) {
	f, err := os.Open(meminfo)
	if err != nil {
		return 0, false
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		fields := strings.Fields(s.Text()) // MemAvailable: 123 kB
		if len(fields) == 3 && fields[0] == "MemAvailable:" {
			kilobytes, err := strconv.ParseInt(fields[1], 10, 64)
			if err != nil {
				return 0, false
			}
			bytes, ok = kilobytes<<10, true
		}
	}
	limit, limited := number(cgroup + "/memory.max") // "max" without a limit
	used, known := number(cgroup + "/memory.current")
	if ok && limited && known {
		bytes = min(bytes, max(0, limit-used))
	}
	return bytes, ok
}

func number(path string) (int64, bool) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	return n, err == nil
}
