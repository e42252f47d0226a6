// Package message is what host and device say to each other, by package agent.
package message

import (
	"time"

	"hypnos/hil/compute"
)

// Methods, with the type of their parameters and of their result.
const (
	Identify = "identify" // –, Identity
	Echo     = "echo"     // string, string
	Compute  = "compute"  // Life, Lived
	Start    = "start"    // Configuration, Started
	Stop     = "stop"     // bool: at once; –
	Log      = "log"      // int: the last bytes of the daemon's log; string
	HTTP     = "http"     // Request, Response
	Learned  = "learned"  // –, string: digest of the learned parameters
	Await    = "await"    // Waiting, Awaited
	Usage    = "usage"    // –, Used
	Write    = "write"    // File, –
	Copy     = "copy"     // Copying, –
	Flip     = "flip"     // Bit, string: the file's path
	Fill     = "fill"     // –, int64: bytes until the disk was full
	Remove   = "remove"   // string: path, –
	Mount    = "mount"    // Disk, –
	Unmount  = "unmount"  // string: folder, –
	Clock    = "clock"    // time.Duration by which the clock is set forward, –
	Driver   = "driver"   // Binding, –
	Golden   = "golden"   // string: path of a golden file, Checked

	// Of a guest with a depot, on a board that keeps its files:
	Have  = "have"  // –, Digests
	Put   = "put"   // File of the depot, –
	Fresh = "fresh" // –, –: the home is made anew, with the depot's files
	Renew = "renew" // –, –: the guest becomes the depot's
)

// Guest is the name of the guest among a device's files.
const Guest = "guest"

// Digests are SHA-256 in hexadecimal: of the guest that runs, and of the files in its depot.
type Digests struct {
	Program string            `json:"program"`
	Files   map[string]string `json:"files"`
}

// Identity is what a device says of itself.
type Identity struct {
	Arch      string        `json:"arch"`
	Board     string        `json:"board"` // model, of the device tree
	Kernel    string        `json:"kernel"`
	Cores     int           `json:"cores"`
	Home      string        `json:"home"`
	Time      time.Time     `json:"time"`
	Monotonic time.Duration `json:"monotonic"`
}

// Life is a computation with a package, a path below the device's home.
type Life struct {
	Package string       `json:"package"`
	Life    compute.Life `json:"life"`
}

// Lived is its result.
type Lived struct {
	Stages  []compute.Stage `json:"stages"`
	Kernels string          `json:"kernels"`
	Took    time.Duration   `json:"took"`
}

// Configuration is the daemon's. In Text, {home} is the device's home and {listen} where it is to listen.
type Configuration struct {
	Text     string        `json:"text"`
	Drop     string        `json:"drop,omitempty"` // ends of names of files that are not synced, with commas between
	Patience time.Duration `json:"patience"`       // until it is ready
}

// Started tells how long the daemon took to be ready.
type Started struct {
	Took time.Duration `json:"took"`
}

// Request goes to the daemon.
type Request struct {
	Method string `json:"method"`
	Path   string `json:"path"`
	Type   string `json:"type,omitempty"`
	Body   []byte `json:"body,omitempty"`
	File   string `json:"file,omitempty"` // on the device, in place of Body
}

// Response is the daemon's, with the device's own clock before and after.
type Response struct {
	Status   int           `json:"status"`
	Body     string        `json:"body"`
	Asked    time.Duration `json:"asked"`
	Answered time.Duration `json:"answered"`
}

// Waiting is for the daemon to leave a state. Then is sent when it has.
type Waiting struct {
	While string  `json:"while"`
	Then  Request `json:"then"`
}

// Awaited tells when, by the device's clock, the state had been left, and the answer.
type Awaited struct {
	Seen     time.Duration `json:"seen"`
	Response Response      `json:"response"`
}

// Used is what the daemon takes, in bytes of memory and of files.
type Used struct {
	Resident int64 `json:"resident"`
	Files    int   `json:"files"`
	Bytes    int64 `json:"bytes"`
}

// File is a part of a file; one at offset 0 begins it anew.
type File struct {
	Path   string `json:"path"`
	Offset int64  `json:"offset"`
	Data   []byte `json:"data"`
}

// Copying makes a copy of a file.
type Copying struct {
	From string `json:"from"`
	To   string `json:"to"`
}

// Bit is a bit of a file, Where of 0 to 1 of its length. Of several files that Path's wildcards name it is the last.
type Bit struct {
	Path  string  `json:"path"`
	Where float64 `json:"where"`
	Bit   int     `json:"bit"`
}

// Disk is to be mounted on a folder.
type Disk struct {
	Device   string `json:"device"`
	Folder   string `json:"folder"`
	ReadOnly bool   `json:"read_only"`
	Again    bool   `json:"again"` // it is mounted already, and only how changes
	Empty    bool   `json:"empty"` // what is on it is removed
}

// Binding gives a device of a bus to a driver, or takes it away.
type Binding struct {
	Bus, Driver, Device string
	Bound               bool
}

// Checked is a comparison of the device's integers with a golden file, by the bounds of bench/equivalence.
type Checked struct {
	Comparisons int      `json:"comparisons"`
	Against     string   `json:"against"`  // the backend that wrote the file, with its numbers
	Nearest     string   `json:"nearest"`  // the comparison nearest to its bound
	Violated    []string `json:"violated"` // a line each
}

// Counted is the life whose costs are counted.
func Counted() compute.Life {
	return compute.Life{Seed: 1, Images: 1, Wake: 1, Rate: 1.0 / 1024, Events: 10}
}

// LifeArgument is the kernel's argument that has the device count costs, of packages with commas between, in place of serving; CostsLine
// is what the line on its console begins with.
const (
	LifeArgument = "hil.life="
	CostsLine    = "hil: costs "
)
