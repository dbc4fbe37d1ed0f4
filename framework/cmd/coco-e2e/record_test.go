package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/coco-e2e/coco-e2e/framework/cluster/existing"
	"github.com/coco-e2e/coco-e2e/framework/conformance"
	"github.com/coco-e2e/coco-e2e/framework/conformance/report"
)

// fill sets every field to what no other has, and tells what is to be found.
func fill(v reflect.Value, next *int, told *[]string) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).Name == "TEE" { // a word of a fixed list
				v.Field(i).SetString("snp")
				continue
			}
			fill(v.Field(i), next, told)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range v.Len() {
			fill(v.Index(i), next, told)
		}
	case reflect.Map:
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(key, next, told)
		fill(value, next, told)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, value)
	case reflect.String:
		*next++
		v.SetString(fmt.Sprintf("value%dx", *next))
		*told = append(*told, v.String())
	case reflect.Int:
		*next++
		v.SetInt(int64(770000 + *next))
		*told = append(*told, fmt.Sprint(v.Int()))
	case reflect.Bool:
		v.SetBool(true)
	default:
		panic("nobody fills a " + v.Kind().String())
	}
}

// Whatever is detected of a platform is shown, and is in every form of the report:
// a field that is added to existing.Platform has to be added there.
func TestReportHasAllOfThePlatform(t *testing.T) {
	var p existing.Platform
	var told []string
	next := 0
	fill(reflect.ValueOf(&p).Elem(), &next, &told)
	if len(told) < 30 {
		t.Fatalf("%d values are to be looked for", len(told))
	}
	catalogue, err := conformance.Load()
	if err != nil {
		t.Fatal(err)
	}
	in := report.Input{
		Implementation: report.Implementation{Name: "a runtime", Roots: "none", KBS: "none"},
		Environment:    report.Environment{Provider: "existing"}, Run: report.Run{Command: "make e2e", Started: time.Unix(0, 0)},
	}
	platform(&p, &in)
	r := report.Build(catalogue, in)
	file := filepath.Join(t.TempDir(), report.FileName)
	if err := r.Write(file); err != nil {
		t.Fatal(err)
	}
	written, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var page, summary bytes.Buffer
	if err := errors.Join(r.HTML(&page), r.Markdown(&summary)); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		report.FileName: string(written), "report.html": page.String(), "summary.md": summary.String(), "what is printed": strings.Join(p.Summary(), "\n"),
	} {
		for _, value := range told {
			if !strings.Contains(text, value) {
				t.Errorf("%s lacks %s", name, value)
			}
		}
		for _, word := range []string{"snp", "imulated", "vent"} {
			if !strings.Contains(text, word) {
				t.Errorf("%s says nothing of %s", name, word)
			}
		}
	}
}

// A report that is not valid is shown in no form.
func TestInvalidReportIsNotRendered(t *testing.T) {
	dir := t.TempDir()
	c := recording{dir: dir, begin: time.Now()}
	c.o.Provider = "existing"
	if err := os.Mkdir(filepath.Join(dir, report.FileName), 0o700); err != nil { // cannot be replaced by a file
		t.Fatal(err)
	}
	if _, err := c.write(t.Context(), nil, errors.New("why")); err == nil {
		t.Fatal("the report was written over a directory")
	}
	for _, f := range formats {
		if _, err := os.Stat(filepath.Join(dir, f.file)); !os.IsNotExist(err) {
			t.Errorf("%s is there: %v", f.file, err)
		}
	}
}
