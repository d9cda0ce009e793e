package thirdparty

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// releaseName is what the pages call a release.
const releaseName = "alignedfusion-VERSION-linux-amd64"

// aRelease puts the archive that the pages unpack into dir; it is packed once.
func aRelease(t *testing.T, dir string) {
	t.Helper()
	homes.Lock()
	defer homes.Unlock()
	archive := filepath.Join(folder, releaseName+".tar.gz")
	if _, err := os.Stat(archive); err != nil {
		packRelease(t, folder)
	}
	if err := os.Link(archive, filepath.Join(dir, releaseName+".tar.gz")); err != nil {
		t.Fatal(err)
	}
}

// packRelease writes the archive of $ALIGNEDFUSION_RELEASE (`make release-pages`), else of the
// checkout's own program, plugins and libraries, packed as a release is.
func packRelease(t *testing.T, dir string) {
	t.Helper()
	plugins, err := ourPlugins()
	if err != nil {
		t.Fatal(err)
	}
	checkout, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	pack := `tree=` + releaseName + `
mkdir -p $tree/bin $tree/build/shim $tree/plugins/a3d $tree/sdk/torchstage
cp "$(command -v alignedfusion)" $tree/bin
cp -rl ` + plugins + ` $tree/bin || cp -r ` + plugins + ` $tree/bin
cd ` + checkout + `
cp -r build/fitgotch build/lib "$OLDPWD"/$tree/build
cp -r build/shim/src "$OLDPWD"/$tree/build/shim
cp -r plugins/a3d/native "$OLDPWD"/$tree/plugins/a3d
cp -r sdk/torchstage/native "$OLDPWD"/$tree/sdk/torchstage
cp tools/release/setup.sh "$OLDPWD"/$tree/setup
cd "$OLDPWD"/$tree
mkdir build/prebuilt
find . -type f | sort | xargs sha256sum > ../SHA256SUMS
mv ../SHA256SUMS .
`
	if archive := os.Getenv("ALIGNEDFUSION_RELEASE"); archive != "" {
		pack = "tar -xzf " + archive + "\nmv alignedfusion-* " + releaseName + "\n"
	}
	shell(t, dir, dir, "mkdir packing && cd packing\n("+pack+")\ntar -cf - "+releaseName+" | gzip -1 > ../"+releaseName+".tar.gz\ncd .. && rm -rf packing\n")
}

// aJobIsStoppedAndGoesOn runs the job of docs/how-to/cluster.md as Slurm does: its script is told
// before the time is up, the job goes back into the queue and goes on from its checkpoint.
func aJobIsStoppedAndGoesOn(t *testing.T, dir, home string) {
	if path, err := exec.LookPath("shellcheck"); err == nil {
		check := exec.Command(path, "job.sh", "study.sh")
		check.Dir = dir
		if out, err := check.CombinedOutput(); err != nil {
			t.Errorf("%s", out)
		}
	}
	shell(t, dir, home, `bash -n job.sh && bash -n study.sh
sed -i 's/--seed 1/--seed 1 --epochs 200 --set data.size=96 --set data.workers=1/' job.sh
mkdir -p `+home+`/data bin
alignedfusion data synth --layout deeplesion --out synthetic/ct --patients 6 --size 96
tar -cf `+home+`/data/ct.tar -C synthetic ct
printf '#!/bin/sh\necho "$@" >> queued\n' > bin/scontrol
chmod +x bin/scontrol
`)
	run := filepath.Join(home, "runs", "itfusion")
	for turn := range 2 {
		job := user(t, dir, home, "-c", "exec bash job.sh")
		job.Env = append(job.Env, "HOME="+home, "PATH="+dir+"/bin:"+os.Getenv("PATH"), "TMPDIR="+dir, "SLURM_TMPDIR="+dir, "SLURM_CPUS_PER_TASK=1", "SLURM_JOB_ID=17")
		var said strings.Builder
		job.Stdout, job.Stderr = &said, &said
		if err := job.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- job.Wait() }()
		before := len(metrics(t, run))
		for len(metrics(t, run)) < before+3 {
			select {
			case err := <-ended:
				t.Fatalf("turn %d ended by itself: %v\n%s", turn, err, said.String())
			case <-time.After(20 * time.Millisecond):
			}
		}
		if err := job.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		var exit *exec.ExitError
		if err := <-ended; !errors.As(err, &exit) || exit.ExitCode() != 75 {
			t.Errorf("turn %d ended with %v, want 75\n%s", turn, err, said.String())
		}
	}
	queued, err := os.ReadFile(filepath.Join(dir, "queued"))
	if err != nil || string(queued) != "requeue 17\nrequeue 17\n" {
		t.Errorf("Slurm was told %q, %v", queued, err)
	}
}

// metrics are the steps that a run has noted.
func metrics(t *testing.T, run string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(run, "metrics.jsonl"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return regexp.MustCompile(`"kind":"step"`).FindAllString(string(text), -1)
}

// aGPUThatIsNotThereIsRefused does what docs/how-to/gpu.md asks of a GPU where there is none.
func aGPUThatIsNotThereIsRefused(t *testing.T, dir, home string) {
	text, err := os.ReadFile(root + "/docs/how-to/gpu.md")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat("/dev/nvidiactl"); err == nil {
		t.Skip("there is a GPU")
	}
	shell(t, dir, home, "alignedfusion data synth --layout deeplesion --out ct --patients 6 --size 96")
	all, _ := blocksOf(string(text))
	refused := 0
	for _, b := range all {
		for line := range strings.Lines(b.text) {
			if b.why == "" || !strings.HasPrefix(line, "alignedfusion ") {
				continue
			}
			out, err := user(t, dir, home, "-c", line).CombinedOutput()
			var exit *exec.ExitError
			// plugin validate says before what it could try.
			said := strings.Split(strings.TrimSpace(string(out)), "\n")
			last := said[len(said)-1]
			if !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.HasPrefix(last, "alignedfusion: ") || !strings.Contains(last, "cuda:0: this libtorch has no CUDA") {
				t.Errorf("%s%v\n%s", line, err, out)
			}
			refused++
		}
	}
	if refused != 2 {
		t.Errorf("%d commands for a GPU, want 2", refused)
	}
}

// Both recipes of a container do the same as a login node: an environment with torch, set-up,
// doctor; and hadolint, where it is there, finds nothing in the Dockerfile.
func TestRecipesOfContainersDoTheSame(t *testing.T) {
	recipe := map[string]string{}
	for _, name := range []string{"Dockerfile", "apptainer.def"} {
		text, err := os.ReadFile(root + "/tools/release/" + name)
		if err != nil {
			t.Fatal(err)
		}
		recipe[name] = string(text)
		for _, part := range []string{"debian:12-slim", "/opt/alignedfusion", "apt-get update -qq", "apt-get install -y -qq --no-install-recommends python3-venv",
			"rm -rf /var/lib/apt/lists/*", "python3 -m venv /opt/torch", "/opt/torch/bin/pip install --no-cache-dir ", "PATH=/opt/torch/bin:$PATH ./setup",
			"bin/alignedfusion doctor", "PATH=/opt/alignedfusion/bin:$PATH"} {
			if !strings.Contains(recipe[name], part) {
				t.Errorf("%s lacks %q", name, part)
			}
		}
	}
	version := regexp.MustCompile(`2\.\d+\.\*`)
	if a, b := version.FindString(recipe["Dockerfile"]), version.FindString(recipe["apptainer.def"]); a != b || a == "" {
		t.Errorf("torch %q and %q", a, b)
	}
	for line := range strings.Lines(recipe["apptainer.def"]) {
		if out, err := exec.Command("sh", "-n", "-c", line).CombinedOutput(); strings.HasPrefix(line, "    ") && err != nil {
			t.Errorf("apptainer.def: %s%s", line, out)
		}
	}
	if path, err := exec.LookPath("hadolint"); err == nil {
		if out, err := exec.Command(path, "--ignore", "DL3008", root+"/tools/release/Dockerfile").CombinedOutput(); err != nil {
			t.Errorf("%s", out)
		}
	}
}

// firstTwo reads the first block of commands of the README: how predictions become a FROC.
func firstTwo(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(root + "/README.md")
	if err != nil {
		t.Fatal(err)
	}
	all, _ := blocksOf(string(text))
	if all[0].language != "sh" || all[0].why != "" {
		t.Fatalf("the README begins with %q", all[0])
	}
	return strings.Split(strings.TrimSpace(all[0].text), "\n")
}

// Predictions become a FROC with intervals by the README's two commands on a machine that has a
// shell, tar, gzip and a release: no home, no Go, no Python, no compiler.
func TestPredictionsToAFROCTakeTwoCommandsAndARelease(t *testing.T) {
	t.Parallel()
	needGotch(t)
	dir := t.TempDir()
	predictionsOfOthers(t, dir)
	aRelease(t, dir)
	shell(t, dir, dir, "mkdir machine && ln -s $(command -v tar) $(command -v gzip) machine/")
	commands := firstTwo(t)
	if len(commands) > 2 {
		t.Errorf("%d commands, want 2: %q", len(commands), commands)
	}
	cmd := exec.Command("/bin/sh", "-e", "-c", strings.Join(commands, "\n"))
	cmd.Dir, cmd.Env = dir, []string{"PATH=" + filepath.Join(dir, "machine")}
	out, err := cmd.Output()
	if err != nil || !regexp.MustCompile(`(?m)^ *0\.5 +0\.6667 +0\.\d+ to 1\.0000`).Match(out) {
		t.Errorf("%v\n%s", err, out)
	}
}

// From scans and reports to a detector that reads both, and from nothing to a fusion in a table.
func TestTutorialsTakeFewCommands(t *testing.T) {
	for page, most := range map[string]int{"my-scans-and-reports": 8, "my-own-fusion": 10} {
		text, err := os.ReadFile(root + "/docs/tutorials/" + page + ".md")
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		all, _ := blocksOf(string(text))
		for _, b := range all {
			if b.language == "sh" {
				n += strings.Count(strings.ReplaceAll(b.text, "\\\n", ""), "\n")
			}
			if b.why != "" {
				t.Errorf("%s: not run: %s", page, b.why)
			}
		}
		if n > most || n < 5 {
			t.Errorf("%s takes %d commands, want at most %d", page, n, most)
		}
	}
}
