package podvm

import (
	"context"
	"path/filepath"
	"strconv"

	"github.com/coco-e2e/coco-e2e/framework/agentapi/hypervisorpb"
	"github.com/coco-e2e/coco-e2e/simulators/podvm/config"
	"github.com/coco-e2e/coco-e2e/simulators/podvm/teepool"
)

// class answers hypervisor.Hypervisor for one kind of VM. What is asked about a VM that is there already is answered on
// any class's socket.
type class struct {
	config.Class
	*Service
	tees *teepool.Pool
}

var _ hypervisorpb.HypervisorService = (*class)(nil)

// Registers that guests of classes with an event log measure into: attestation-agent's default, which stands for RTMR 3,
// and on machines with a TPM a PCR that guests can extend (17 to 22 take a locality that operating systems have not, TCG
// PC Client Platform TPM Profile, 4.6.1).
const (
	eventRegister    = 17
	eventRegisterTPM = 15
)

func (s *Service) newClass(index int) *class {
	c := &class{Class: s.config.Classes[index], Service: s}
	dir := strconv.Itoa(index)
	c.tees = &teepool.Pool{
		Program: s.config.TEEProgram, Args: c.arguments(s.config.TEERoots), Size: c.Pool, Spawn: s.spawner.spawnTEE, Log: s.log,
		SocketDir: filepath.Join(s.teeSockets(), dir), LogDir: filepath.Join(s.teeLogs(), dir),
	}
	c.tees.Fill()
	return c
}

func (s *Service) teeSockets() string { return filepath.Join(s.config.StateDir, ".tees") }

func (s *Service) teeLogs() string { return filepath.Join(s.config.LogDir, ".tees") }

// arguments are what all TEEs of the class are started with.
func (c *class) arguments(roots string) []string {
	args := []string{"--kind", c.TEE}
	if c.Certified() {
		args = append(args, "--roots", roots)
	}
	return args
}

// environment is what guests of this class have in their agent's environment, as a guest image made for such machines
// would.
func (c *class) environment() []string {
	var env []string
	if c.None() {
		// Without it attestation-agent refuses to pretend.
		env = append(env, "AA_SAMPLE_ATTESTER_TEST=yes")
	}
	if c.VTPM() {
		env = append(env, "AA_TPM_AK_HANDLE=0x81000003")
	}
	if c.EventLog {
		register := eventRegister
		if c.Device() == "tpm0" {
			register = eventRegisterTPM
		}
		env = append(env, "COCO_EVENTLOG="+strconv.Itoa(register))
	}
	return env
}

// CreateVM prepares a guest: its directories, its init-data image, its TEE.
func (c *class) CreateVM(ctx context.Context, request *hypervisorpb.CreateVMRequest) (*hypervisorpb.CreateVMResponse, error) {
	return c.createVM(ctx, c, request)
}
