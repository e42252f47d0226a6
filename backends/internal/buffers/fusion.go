package buffers

import "hypnos/core/net"

// None stands for no node.
const None = -1

// Fusion is what can be done to a node's output before it is written: the batch norm, sum and rectifier behind it, as far
// as they follow one another at once and nothing else reads what is in between.
type Fusion struct {
	Norm  int // the batch norm, None without
	Other int // the node that is added, None without
	ReLU  bool
	Last  int // the node whose output it makes: the first node itself where there is nothing to fuse
}

// Fusions finds them for the nodes of some ops, behind which at most one each of batch norm, sum and rectifier are taken, in
// that order, a batch norm that begins a fusion being its own. absorbed tells which nodes are part of an earlier one's.
func Fusions(n *net.Network, begins func(net.Op) bool) (then []Fusion, absorbed []bool) {
	consumers := Consumers(n)
	then, absorbed = make([]Fusion, len(n.Nodes)), make([]bool, len(n.Nodes))
	for i, v := range n.Nodes {
		then[i] = Fusion{Norm: None, Other: None, Last: i}
		if begins(v.Op) {
			then[i].extend(n, consumers, absorbed)
		}
	}
	return then, absorbed
}

// extend takes in the nodes behind the last one, in the order batch norm, sum, rectifier, each at most once.
func (t *Fusion) extend(n *net.Network, consumers []int, absorbed []bool) {
	if _, ok := n.Nodes[t.Last].Op.(net.BatchNorm); ok {
		t.Norm = t.Last
	}
	for next := t.Last + 1; next < len(n.Nodes) && consumers[t.Last] == 1; next++ {
		v := n.Nodes[next]
		switch v.Op.(type) {
		case net.BatchNorm:
			if t.Norm != None || t.Other != None || v.Inputs[0] != t.Last {
				return
			}
			t.Norm = next
		case net.Add:
			if t.Other != None || v.Inputs[0] == v.Inputs[1] {
				return
			}
			switch t.Last {
			case v.Inputs[0]:
				t.Other = v.Inputs[1]
			case v.Inputs[1]:
				t.Other = v.Inputs[0]
			default:
				return
			}
		case net.ReLU:
			if v.Inputs[0] != t.Last {
				return
			}
			t.ReLU = true
			absorbed[next], t.Last = true, next
			return
		default:
			return
		}
		absorbed[next], t.Last = true, next
	}
}

// ends gives the last of the nodes that are computed together with a node.
func ends(then []Fusion, absorbed []bool) func(node int) int {
	return func(i int) int {
		for absorbed[i] {
			i--
		}
		return then[i].Last
	}
}
