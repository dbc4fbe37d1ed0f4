package agent

import (
	"context"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	pb "github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
	"github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb/typespb"
)

// ownNetwork runs the rest of the test in a network namespace of its own with
// one veth pair. The thread is not given back: it ends with the test.
func ownNetwork(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: a network namespace")
	}
	runtime.LockOSThread()
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "eth9"
	attrs.HardwareAddr = []byte{2, 0, 0, 0, 0, 9}
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "peer"}); err != nil {
		t.Fatal(err)
	}
	peer, err := netlink.LinkByName("peer")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(peer); err != nil {
		t.Fatal(err)
	}
}

func TestNetwork(t *testing.T) {
	ownNetwork(t)
	a, _ := newAgent(t, "package agent_policy\ndefault AllowRequestsFailingPolicy := true\n")
	ctx := context.Background()
	want := &typespb.Interface{
		Device: "eth0", Name: "eth0", HwAddr: "02:00:00:00:00:09", Mtu: 1400,
		IPAddresses: []*typespb.IPAddress{{Address: "10.1.2.3", Mask: "24"}},
	}
	if _, err := a.UpdateInterface(ctx, &pb.UpdateInterfaceRequest{Interface: want}); err != nil {
		t.Fatal(err)
	}
	eth0, err := netlink.LinkByName("eth0")
	if err != nil || eth0.Attrs().MTU != 1400 {
		t.Fatalf("eth0: %v, %v", eth0, err)
	}
	routes, err := a.UpdateRoutes(ctx, &pb.UpdateRoutesRequest{Routes: &pb.Routes{Routes: []*typespb.Route{{Gateway: "10.1.2.1", Device: "eth0"}}}})
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, r := range routes.Routes {
		found = found || r.Dest == "" && r.Gateway == "10.1.2.1" && r.Device == "eth0"
	}
	if !found {
		t.Errorf("no default route in %v", routes)
	}
	neighbour := &typespb.ARPNeighbor{ToIPAddress: &typespb.IPAddress{Address: "10.1.2.9"}, Device: "eth0", Lladdr: "02:00:00:00:00:0a", State: 128}
	if _, err := a.AddARPNeighbors(ctx, &pb.AddARPNeighborsRequest{Neighbors: &pb.ARPNeighbors{ARPNeighbors: []*typespb.ARPNeighbor{neighbour}}}); err != nil {
		t.Error(err)
	}
	list, err := a.ListInterfaces(ctx, &pb.ListInterfacesRequest{})
	if err != nil || !strings.Contains(list.String(), "10.1.2.3") {
		t.Errorf("interfaces %v, %v", list, err)
	}
	if _, err := a.UpdateInterface(ctx, &pb.UpdateInterfaceRequest{Interface: &typespb.Interface{HwAddr: "02:00:00:00:00:ff"}}); err == nil {
		t.Error("an interface that is not there was updated")
	}
}

func TestMetrics(t *testing.T) {
	a, _ := newAgent(t, "package agent_policy\ndefault GetMetricsRequest := true\n")
	m, err := a.GetMetrics(context.Background(), &pb.GetMetricsRequest{})
	if err != nil || !strings.Contains(m.Metrics, "# TYPE kata_agent_total_rss gauge\nkata_agent_total_rss ") || strings.Contains(m.Metrics, "kata_agent_total_rss 0\n") {
		t.Errorf("%v\n%s", err, m.GetMetrics())
	}
}
