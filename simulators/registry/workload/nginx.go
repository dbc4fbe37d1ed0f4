// Package workload puts together the images and bundles that pods of the suite run.
//
// It must not know how they are served or who runs them.
package workload

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/coco-e2e/coco-e2e/simulators/registry/debian"
	"github.com/coco-e2e/coco-e2e/simulators/registry/image"
)

// NginxName is what the workload is called, as users write it.
const NginxName = "docker.io/library/nginx:coco-e2e"

// nginxPackages are what the image is made of, with what they depend on.
var nginxPackages = []string{"base-files", "ca-certificates", "coreutils", "curl", "dash", "grep", "netcat-openbsd", "nginx", "sed", "tar"}

// nginxPrograms are the programs of the image beside those of coreutils.
var nginxPrograms = []string{"usr/sbin/nginx", "usr/bin/curl", "usr/bin/dash", "usr/bin/grep", "usr/bin/nc.openbsd", "usr/bin/sed", "usr/bin/tar"}

// coreutils are those of that package's hundred programs that the image has.
const coreutils = `[ base64 basename cat chmod chown cp cut date dd df dirname du echo env expr false head id ln ls md5sum
	mkdir mktemp mv nproc od printenv printf pwd readlink realpath rm rmdir seq sha256sum sha384sum sha512sum sleep sort stat
	stty tail tee test timeout touch tr true truncate tty uname uniq wc whoami yes`

// nginxConf has the server write to the container's streams, as nginx's own image does.
const nginxConf = `user www-data;
worker_processes 1;
pid /run/nginx.pid;
error_log stderr notice;

events {
	worker_connections 512;
}

http {
	include /etc/nginx/mime.types;
	default_type application/octet-stream;
	access_log /dev/stdout;
	sendfile on;

	server {
		listen 80;
		location / {
			root /usr/share/nginx/html;
			index index.html;
		}
	}
}
`

// Nginx makes the workload image: nginx, curl, a shell and the usual small programs from Debian's packages. The same
// packages give the same digest.
func Nginx(ctx context.Context, cache debian.Cache, refresh bool) (v1.Image, error) {
	packages, err := cache.Packages(ctx, nginxPackages, refresh)
	if err != nil {
		return nil, fmt.Errorf("image nginx: %w", err)
	}
	files, err := debian.Read(ctx, packages)
	if err != nil {
		return nil, fmt.Errorf("image nginx: %w", err)
	}
	tree := image.Tree{}
	programs := slices.Clone(nginxPrograms)
	for name := range strings.FieldsSeq(coreutils) {
		programs = append(programs, "usr/bin/"+name)
	}
	wanted := append(programs, "etc/nginx/mime.types", "usr/share/nginx/html/index.html", "etc/os-release", "etc/debian_version")
	if err := files.Copy(tree, wanted...); err != nil {
		return nil, fmt.Errorf("image nginx: %w", err)
	}
	configureNginx(tree)
	certificates(tree, files)
	tree.AddText("usr/share/coco-e2e/packages", strings.Join(debian.Names(packages), "\n")+"\n")
	return image.New(tree, v1.Config{
		Cmd: []string{"nginx", "-g", "daemon off;"}, WorkingDir: "/", StopSignal: "SIGQUIT",
		ExposedPorts: map[string]struct{}{"80/tcp": {}},
	})
}

func configureNginx(tree image.Tree) {
	debian.AddMergedDirs(tree)
	tree.AddLink("usr/bin/sh", "dash")
	tree.AddLink("usr/bin/nc", "nc.openbsd")
	tree.AddUsers("/bin/sh", "www-data:33", "nginx:101")
	tree.AddText("etc/nginx/nginx.conf", nginxConf)
	tree.AddText("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n")
	// nginx opens the log that it was compiled with before it reads its configuration.
	tree.AddLink("var/log/nginx/error.log", "/dev/stderr")
	tree.AddLink("var/log/nginx/access.log", "/dev/stdout")
	for _, dir := range []string{"dev", "proc", "run", "sys", "var/lib/nginx", "var/www"} {
		tree.AddDir(dir, 0o755)
	}
	tree.AddDir("root", 0o700)
	tree.AddDir("tmp", 0o777|Sticky)
	tree.AddDir("var/tmp", 0o777|Sticky)
}

// certificates joins the authorities' certificates into the file that OpenSSL and curl read, as update-ca-certificates does.
func certificates(tree image.Tree, files debian.Files) {
	var all []byte
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if strings.HasPrefix(name, "usr/share/ca-certificates/") && strings.HasSuffix(name, ".crt") {
			all = append(all, files[name].Content...)
		}
	}
	tree.AddFile("etc/ssl/certs/ca-certificates.crt", all, 0o644)
}
