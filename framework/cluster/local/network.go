package local

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// The addresses of a cluster are a /28 of 10.99.0.0/24:
//
//	.0/30  the link between this machine (.1) and the control plane (.2)
//	.8/29  the workers (.10 and up), on a bridge in the control plane's network
//	       namespace (.9), which routes for them
//
// so that this machine forwards nothing, and gets one interface and, with
// workers, one route over it.
const (
	subnets      = 16
	maxWorkers   = 5
	bridgeName   = "workers"
	podNetwork   = "10.244.%d.0/24"
	firstWorker  = 10
	bridgeOffset = 9
)

// addresses are a cluster's, chosen before it starts.
type addresses struct {
	// Base is the first address of the /28.
	Base string `json:"base"`
}

// at is the address at offset in the /28.
func (a addresses) at(offset int) net.IP {
	ip := net.ParseIP(a.Base).To4()
	return net.IPv4(ip[0], ip[1], ip[2], ip[3]+byte(offset)).To4()
}

// gateway is this machine's address on the link to the control plane.
func (a addresses) gateway() net.IP { return a.at(1) }

// node is the address of the node at index; 0 is the control plane.
func (a addresses) node(index int) net.IP {
	if index == 0 {
		return a.at(2)
	}
	return a.at(firstWorker + index - 1)
}

// bridge is the control plane's address among the workers.
func (a addresses) bridge() net.IP { return a.at(bridgeOffset) }

func (a addresses) workers() *net.IPNet {
	return &net.IPNet{IP: a.at(8), Mask: net.CIDRMask(29, 32)}
}

// interfaceName is this machine's end of the link to the control plane: at
// most 15 bytes, told apart by the cluster's name.
func interfaceName(cluster string) string {
	sum := sha256.Sum256([]byte(cluster))
	return "ccoe2e-" + hex.EncodeToString(sum[:4])
}

// freeAddresses chooses a /28 that no interface or route of this machine touches.
func freeAddresses() (addresses, error) {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return addresses{}, fmt.Errorf("list routes: %w", err)
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return addresses{}, fmt.Errorf("list addresses: %w", err)
	}
	for i := range subnets {
		chosen := net.IPNet{IP: net.IPv4(10, 99, 0, byte(i*16)).To4(), Mask: net.CIDRMask(28, 32)}
		taken := false
		for _, r := range routes {
			if r.Dst != nil {
				ones, _ := r.Dst.Mask.Size()
				taken = taken || ones > 0 && overlap(r.Dst, &chosen)
			}
		}
		for _, a := range addrs {
			taken = taken || a.IPNet != nil && overlap(a.IPNet, &chosen)
		}
		if !taken {
			return addresses{Base: chosen.IP.String()}, nil
		}
	}
	return addresses{}, errors.New("no free /28 in 10.99.0.0/24 for the cluster's nodes: remove clusters with `make down`, or free that range")
}

func overlap(a, b *net.IPNet) bool { return a.Contains(b.IP) || b.Contains(a.IP) }

// linkControlPlane joins the control plane's network namespace to this machine
// with a veth pair; with workers, it gets the bridge to which they are joined.
func (c *Cluster) linkControlPlane() error {
	name, pid := interfaceName(c.o.Name), c.machines[0].state.PID
	if err := unlink(name); err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsPid(pid)}); err != nil {
		return fmt.Errorf("veth %s: %w", name, err)
	}
	here := &netlink.Handle{}
	host, err := addressAndUp(here, name, &net.IPNet{IP: c.state.gateway(), Mask: net.CIDRMask(30, 32)})
	if err != nil {
		return err
	}
	h, err := handleOf(pid)
	if err != nil {
		return err
	}
	defer h.Close()
	eth0, err := addressAndUp(h, "eth0", &net.IPNet{IP: c.state.node(0), Mask: net.CIDRMask(30, 32)})
	if err != nil {
		return err
	}
	if err := h.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: c.state.gateway()}); err != nil {
		return fmt.Errorf("default route: %w", err)
	}
	if len(c.machines) == 1 {
		return nil
	}
	bridge := netlink.NewLinkAttrs()
	bridge.Name = bridgeName
	if err := h.LinkAdd(&netlink.Bridge{LinkAttrs: bridge}); err != nil {
		return fmt.Errorf("bridge %s: %w", bridgeName, err)
	}
	if _, err := addressAndUp(h, bridgeName, &net.IPNet{IP: c.state.bridge(), Mask: c.state.workers().Mask}); err != nil {
		return err
	}
	// What workers ask of this machine is answered over the control plane.
	return here.RouteAdd(&netlink.Route{LinkIndex: host.Attrs().Index, Dst: c.state.workers(), Gw: c.state.node(0)})
}

// linkWorker joins a worker's network namespace to the control plane's bridge,
// and has pods find their way between the two.
func (c *Cluster) linkWorker(m *machine) error {
	control, err := handleOf(c.machines[0].state.PID)
	if err != nil {
		return err
	}
	defer control.Close()
	bridge, err := control.LinkByName(bridgeName)
	if err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MasterIndex = fmt.Sprintf("worker%d", m.index), bridge.Attrs().Index
	if err := control.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsPid(m.state.PID)}); err != nil {
		return fmt.Errorf("veth %s: %w", attrs.Name, err)
	}
	port, err := control.LinkByName(attrs.Name)
	if err != nil {
		return err
	}
	if err := control.LinkSetUp(port); err != nil {
		return err
	}
	h, err := handleOf(m.state.PID)
	if err != nil {
		return err
	}
	defer h.Close()
	eth0, err := addressAndUp(h, "eth0", &net.IPNet{IP: m.ip(), Mask: c.state.workers().Mask})
	if err != nil {
		return err
	}
	if err := h.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: c.state.bridge()}); err != nil {
		return fmt.Errorf("default route of %s: %w", m.state.Name, err)
	}
	_, pods, err := net.ParseCIDR(fmt.Sprintf(podNetwork, m.index))
	if err != nil {
		return err
	}
	return control.RouteAdd(&netlink.Route{LinkIndex: bridge.Attrs().Index, Dst: pods, Gw: m.ip()})
}

// handleOf speaks netlink in the network namespace of a process.
func handleOf(pid int) (*netlink.Handle, error) {
	ns, err := netns.GetFromPid(pid)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	return netlink.NewHandleAt(ns)
}

func addressAndUp(h *netlink.Handle, name string, address *net.IPNet) (netlink.Link, error) {
	l, err := h.LinkByName(name)
	if err != nil {
		return nil, err
	}
	if err := h.AddrAdd(l, &netlink.Addr{IPNet: address}); err != nil {
		return nil, fmt.Errorf("address %s on %s: %w", address, name, err)
	}
	return l, h.LinkSetUp(l)
}

// unlink removes the link; the other end goes with it.
func unlink(name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			return nil
		}
		return err
	}
	return netlink.LinkDel(l)
}
