package sample

import (
	"crypto/sha256"
	"fmt"
	"testing"

	"hypnos/core/data"
)

// 200 training images of each class, 1,000 test images, the pixels as they were when the archive was made.
func TestSample(t *testing.T) {
	d, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	if d.Train.Len() != 2000 || d.Test.Len() != 1000 || len(d.Classes) != 10 || d.Classes[0] != "airplane" || d.Classes[9] != "truck" {
		t.Fatalf("%d + %d images, classes %v", d.Train.Len(), d.Test.Len(), d.Classes)
	}
	var count [10]int
	for _, l := range d.Train.Labels {
		count[l]++
	}
	for class, n := range count {
		if n != 200 {
			t.Errorf("%d training images of class %s, want 200", n, d.Classes[class])
		}
	}
	// The digests of the images in the excerpt from which the archive was made.
	for _, s := range []struct {
		images *data.Images
		want   string
	}{{d.Train, "5227c600ea1b81a2"}, {d.Test, "da362006b9967121"}} {
		if got := fmt.Sprintf("%x", sha256.Sum256(s.images.Pixels))[:16]; got != s.want {
			t.Errorf("pixels have digest %s, want %s", got, s.want)
		}
	}
}
