package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	pb "github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
	"github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb/typespb"
)

// The guest's network is the pod's network namespace. A shim that plugs in
// interfaces describes them here (Kata src/agent/src/netlink.rs); one in
// remote-hypervisor mode does not call.

// UpdateInterface gives the interface with the request's hardware address the
// addresses, name, MTU and flags that the request says.
func (a *Agent) UpdateInterface(ctx context.Context, r *pb.UpdateInterfaceRequest) (*typespb.Interface, error) {
	return gate(ctx, a, "UpdateInterface", r, func(_ context.Context, r *pb.UpdateInterfaceRequest) (*typespb.Interface, error) {
		if r.Interface == nil {
			return nil, said(codes.InvalidArgument, "empty update interface request")
		}
		if r.Interface.DevicePath != "" {
			return nil, said(codes.Internal, "interface not available: this guest has no PCI bus")
		}
		if err := updateInterface(r.Interface); err != nil {
			return nil, doing("update interface", err)
		}
		return r.Interface, nil
	})
}

func updateInterface(want *typespb.Interface) error {
	link, err := linkByAddress(want.HwAddr)
	if err != nil {
		return err
	}
	addresses, err := parseAddresses(want.IPAddresses)
	if err != nil {
		return err
	}
	if want.Name != "" && want.Name != link.Attrs().Name {
		if err := errors.Join(netlink.LinkSetDown(link), netlink.LinkSetName(link, want.Name)); err != nil {
			return err
		}
	}
	old, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	for i := range old {
		if !old[i].IP.IsLinkLocalUnicast() && !contains(addresses, &old[i]) {
			if err := netlink.AddrDel(link, &old[i]); err != nil {
				return err
			}
		}
	}
	for _, addr := range addresses {
		if err := netlink.AddrReplace(link, addr); err != nil {
			return fmt.Errorf("address %s: %w", addr, err)
		}
	}
	if want.Mtu > 0 {
		if err := netlink.LinkSetMTU(link, int(want.Mtu)); err != nil {
			return err
		}
	}
	if want.RawFlags&unix.IFF_NOARP != 0 {
		if err := netlink.LinkSetARPOff(link); err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(link)
}

func contains(list []*netlink.Addr, a *netlink.Addr) bool {
	for _, x := range list {
		if x.IPNet.String() == a.IPNet.String() {
			return true
		}
	}
	return false
}

func linkByAddress(hw string) (netlink.Link, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		if l.Attrs().HardwareAddr.String() == strings.ToLower(hw) && hw != "" {
			return l, nil
		}
	}
	return nil, fmt.Errorf("Link not found (Address: %s)", hw)
}

func parseAddresses(list []*typespb.IPAddress) ([]*netlink.Addr, error) {
	var out []*netlink.Addr
	for _, a := range list {
		addr, err := netlink.ParseAddr(a.Address + "/" + a.Mask)
		if err != nil {
			return nil, fmt.Errorf("address %q, mask %q: %w", a.Address, a.Mask, err)
		}
		out = append(out, addr)
	}
	return out, nil
}

// UpdateRoutes replaces the routes that nobody but an administrator sets.
func (a *Agent) UpdateRoutes(ctx context.Context, r *pb.UpdateRoutesRequest) (*pb.Routes, error) {
	return gate(ctx, a, "UpdateRoutes", r, func(_ context.Context, r *pb.UpdateRoutesRequest) (*pb.Routes, error) {
		if r.Routes == nil {
			return nil, said(codes.InvalidArgument, "empty update routes request")
		}
		routes, err := parseRoutes(r.Routes.Routes)
		if err != nil {
			return nil, doing("Failed to update routes", err)
		}
		if err := replaceRoutes(routes); err != nil {
			return nil, doing("Failed to update routes", err)
		}
		return listRoutes()
	})
}

func parseRoutes(list []*typespb.Route) ([]*netlink.Route, error) {
	var out []*netlink.Route
	for _, w := range list {
		link, err := netlink.LinkByName(w.Device)
		if err != nil {
			return nil, fmt.Errorf("device %q: %w", w.Device, err)
		}
		route := &netlink.Route{
			LinkIndex: link.Attrs().Index, Gw: net.ParseIP(w.Gateway), Src: net.ParseIP(w.Source), Scope: netlink.Scope(w.Scope),
			Flags: int(w.Flags), MTU: int(w.Mtu),
		}
		if w.Gateway != "" && route.Gw == nil || w.Source != "" && route.Src == nil {
			return nil, fmt.Errorf("route to %q: gateway %q or source %q is no address", w.Dest, w.Gateway, w.Source)
		}
		if w.Dest != "" {
			if _, route.Dst, err = net.ParseCIDR(w.Dest); err != nil {
				return nil, fmt.Errorf("route to %q: %w", w.Dest, err)
			}
		}
		out = append(out, route)
	}
	return out, nil
}

func replaceRoutes(routes []*netlink.Route) error {
	old, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	for i := range old {
		if old[i].Protocol != unix.RTPROT_KERNEL {
			if err := netlink.RouteDel(&old[i]); err != nil {
				return err
			}
		}
	}
	// Routes without a gateway first: others may need them to reach theirs.
	for _, gateway := range []bool{false, true} {
		for _, r := range routes {
			if (r.Gw != nil) == gateway {
				if err := netlink.RouteReplace(r); err != nil {
					return fmt.Errorf("route %s: %w", r, err)
				}
			}
		}
	}
	return nil
}

// ListInterfaces implements grpc.AgentService.
func (a *Agent) ListInterfaces(ctx context.Context, r *pb.ListInterfacesRequest) (*pb.Interfaces, error) {
	return gate(ctx, a, "ListInterfaces", r, func(context.Context, *pb.ListInterfacesRequest) (*pb.Interfaces, error) {
		links, err := netlink.LinkList()
		if err != nil {
			return nil, internal(err)
		}
		out := &pb.Interfaces{}
		for _, l := range links {
			at := l.Attrs()
			i := &typespb.Interface{Device: at.Name, Name: at.Name, Mtu: uint64(at.MTU), HwAddr: at.HardwareAddr.String()}
			addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
			if err != nil {
				return nil, internal(err)
			}
			for _, x := range addrs {
				ones, _ := x.Mask.Size()
				i.IPAddresses = append(i.IPAddresses, &typespb.IPAddress{Family: family(x.IP), Address: x.IP.String(), Mask: fmt.Sprint(ones)})
			}
			out.Interfaces = append(out.Interfaces, i)
		}
		return out, nil
	})
}

func family(ip net.IP) typespb.IPFamily {
	if ip.To4() == nil {
		return typespb.IPFamily_v6
	}
	return typespb.IPFamily_v4
}

// ListRoutes implements grpc.AgentService.
func (a *Agent) ListRoutes(ctx context.Context, r *pb.ListRoutesRequest) (*pb.Routes, error) {
	return gate(ctx, a, "ListRoutes", r, func(context.Context, *pb.ListRoutesRequest) (*pb.Routes, error) { return listRoutes() })
}

func listRoutes() (*pb.Routes, error) {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, internal(err)
	}
	out := &pb.Routes{}
	for _, r := range routes {
		w := &typespb.Route{Scope: uint32(r.Scope), Flags: uint32(r.Flags), Mtu: uint32(r.MTU)}
		if l, err := netlink.LinkByIndex(r.LinkIndex); err == nil {
			w.Device = l.Attrs().Name
		}
		if ones := 0; r.Dst != nil {
			if ones, _ = r.Dst.Mask.Size(); ones > 0 {
				w.Dest = r.Dst.String()
			}
		}
		if r.Gw != nil {
			w.Gateway = r.Gw.String()
		}
		if r.Src != nil {
			w.Source = r.Src.String()
		}
		out.Routes = append(out.Routes, w)
	}
	return out, nil
}

// AddARPNeighbors implements grpc.AgentService.
func (a *Agent) AddARPNeighbors(ctx context.Context, r *pb.AddARPNeighborsRequest) (*empty, error) {
	return gate(ctx, a, "AddARPNeighbors", r, plain(func(_ context.Context, r *pb.AddARPNeighborsRequest) error {
		if r.Neighbors == nil {
			return said(codes.InvalidArgument, "empty add arp neighbours request")
		}
		return doing("Failed to add ARP neighbours", addNeighbors(r.Neighbors.ARPNeighbors))
	}))
}

func addNeighbors(list []*typespb.ARPNeighbor) error {
	for _, n := range list {
		link, err := netlink.LinkByName(n.Device)
		if err != nil {
			return fmt.Errorf("device %q: %w", n.Device, err)
		}
		ip, hw := net.ParseIP(n.GetToIPAddress().GetAddress()), net.HardwareAddr(nil)
		if ip == nil {
			return fmt.Errorf("neighbour %q is no address", n.GetToIPAddress().GetAddress())
		}
		if hw, err = net.ParseMAC(n.Lladdr); err != nil {
			return fmt.Errorf("neighbour %s: %w", ip, err)
		}
		if err := netlink.NeighSet(&netlink.Neigh{
			LinkIndex: link.Attrs().Index, IP: ip, HardwareAddr: hw, State: int(n.State), Flags: int(n.Flags),
		}); err != nil {
			return fmt.Errorf("neighbour %s: %w", ip, err)
		}
	}
	return nil
}
