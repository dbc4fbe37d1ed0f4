package manifests

import (
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// The README's table has the rights that rbac.yaml and statistics.yaml grant,
// and no others.
func TestRightsInTheReadme(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(readme), "<!-- rights:begin -->\n")
	table, _, ok := strings.Cut(table, "<!-- rights:end -->")
	if !ok {
		t.Fatal("README.md has no table of rights")
	}
	told := map[string][]string{}
	for _, row := range strings.Split(strings.TrimSpace(table), "\n")[2:] {
		cells := strings.Split(row, "|")
		for resource := range strings.SplitSeq(cells[1], ",") {
			told[strings.Trim(resource, " `")] = strings.Split(strings.TrimSpace(cells[2]), ", ")
		}
	}
	granted := map[string][]string{}
	for _, file := range []string{"existing/rbac.yaml", "existing/statistics.yaml"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rules(t, string(text)) {
			for _, resource := range r.Resources {
				if granted[resource] != nil {
					t.Errorf("%s is granted twice", resource)
				}
				granted[resource] = r.Verbs
			}
		}
	}
	for _, resource := range slices.Sorted(maps.Keys(granted)) {
		if !reflect.DeepEqual(told[resource], granted[resource]) {
			t.Errorf("README.md says of %s %q, and %q is granted", resource, told[resource], granted[resource])
		}
	}
	for _, resource := range slices.Sorted(maps.Keys(told)) {
		if granted[resource] == nil {
			t.Errorf("README.md tells of %s, which is not granted", resource)
		}
	}
}
