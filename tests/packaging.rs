//! What a package or `packaging/install.sh` puts on a machine: the same files, and nothing left when it goes.
//!
//! The packages' own life, under a systemd, is in `tests/service/package.rs`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;
use toml::{Table, Value};

/// What Debian's package has besides the list, because Debian's policy wants it.
const DEBIAN_ONLY: &[&str] = &[
    "/usr/share/doc/dbufd/changelog.Debian.gz",
    "/usr/share/doc/dbufd/copyright",
    "/usr/share/lintian/overrides/dbufd",
];
/// What Fedora's package has besides the list.
const FEDORA_ONLY: &[&str] = &["/usr/share/licenses/dbufd/LICENSE-*"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What is listed: source and mode by destination. A source that cargo builds begins with `BUILT/`, one that is made of
/// that with `MADE/`, whatever the list calls them.
type Files = BTreeMap<String, (String, String)>;

fn file(source: &str, destination: &str, mode: &str) -> (String, (String, String)) {
    let made = source.replace("target/release/packaging/bin/", "BUILT/").replace("target/release/packaging/", "MADE/");
    let source = made.replace("target/release/", "BUILT/");
    let name = source.rsplit('/').next().expect("a name");
    let slash = if destination.starts_with('/') { "" } else { "/" };
    let name = if destination.ends_with('/') { name } else { "" };
    (format!("{slash}{destination}{name}"), (source, mode.to_owned()))
}

/// packaging/files, for packages that have zsh's completions there.
fn listed(zsh: &str) -> Files {
    let text = fs::read_to_string(root().join("packaging/files")).expect("the list");
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let line = line.replace("@build@", "BUILT").replace("@made@", "MADE").replace("@prefix@", "/usr");
            let line = line.replace("@systemd@", "/usr/lib").replace("@zsh@", zsh);
            let words: Vec<&str> = line.split(' ').collect();
            let [mode, source, destination] = words[..] else { panic!("not three words: {line}") };
            file(source, destination, mode)
        })
        .collect()
}

fn metadata(tool: &str) -> Table {
    let text = fs::read_to_string(root().join("Cargo.toml")).expect("a manifest");
    let manifest: Table = text.parse().expect("TOML");
    manifest["package"]["metadata"][tool].as_table().expect("the tool's table").clone()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().expect("a text")
}

fn in_the_deb() -> Files {
    let assets = metadata("deb")["assets"].as_array().expect("assets").clone();
    let part = |asset: &Value, at: usize| asset[at].as_str().expect("a text").to_owned();
    assets.iter().map(|asset| file(&part(asset, 0), &part(asset, 1), &part(asset, 2))).collect()
}

fn in_the_rpm() -> Files {
    let assets = metadata("generate-rpm")["assets"].as_array().expect("assets").clone();
    assets.iter().map(|asset| file(text(asset, "source"), text(asset, "dest"), text(asset, "mode"))).collect()
}

#[test]
fn the_packages_have_the_files_that_install_places_with_the_same_modes() {
    for (mut packed, zsh, own) in [
        (in_the_deb(), "/usr/share/zsh/vendor-completions", DEBIAN_ONLY),
        (in_the_rpm(), "/usr/share/zsh/site-functions", FEDORA_ONLY),
    ] {
        for path in own {
            assert!(packed.remove(*path).is_some(), "{path} is not packed");
        }
        assert_eq!(packed, listed(zsh));
    }
}

#[test]
fn what_the_rpm_has_in_etc_is_never_replaced_by_an_upgrade() {
    for asset in metadata("generate-rpm")["assets"].as_array().expect("assets") {
        let config = asset.get("config").and_then(Value::as_str);
        assert_eq!(config, text(asset, "dest").starts_with("/etc/").then_some("noreplace"), "{asset}");
    }
}

/// Every file of the project that an installation needs is on the list.
#[test]
fn every_unit_every_drop_in_and_every_document_is_on_the_list() {
    let sources: Vec<String> = listed("zsh").into_values().map(|(source, _)| source).collect();
    for folder in ["systemd", "systemd/drop-ins", "docs", "etc", "etc/dbufd.toml.d"] {
        for entry in fs::read_dir(root().join(folder)).expect("a folder").flatten() {
            let name = entry.file_name().into_string().expect("a name");
            let path = format!("{folder}/{name}");
            let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
            let listed = sources.contains(&path) || sources.contains(&format!("{folder}/*.{ending}"));
            assert!(listed || entry.path().is_dir(), "{path} is installed by nobody");
        }
    }
}

/// A folder that is installed into.
struct Destination {
    folder: TempDir,
}

impl Destination {
    fn new() -> Self {
        Self { folder: tempfile::Builder::new().prefix("dbufd-packaging-").tempdir().expect("a temporary folder") }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path.trim_start_matches('/'))
    }

    fn script(&self, script: &str, arguments: &[&str]) -> Output {
        let built = Path::new(env!("CARGO_BIN_EXE_dbufd")).parent().expect("a folder");
        let profile = match built.file_name().and_then(|name| name.to_str()).expect("a name") {
            "debug" => "dev",
            name => name,
        };
        let mut command = Command::new(root().join("packaging").join(script));
        command.env("CARGO_TARGET_DIR", built.parent().expect("a folder"));
        command.env("DESTDIR", self.folder.path()).args(arguments);
        if script == "install.sh" {
            command.args(["--profile", profile]);
        }
        command.output().expect("sh runs")
    }

    fn run(&self, script: &str, arguments: &[&str]) -> String {
        let output = self.script(script, arguments);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && err.is_empty(), "{script} {arguments:?}: {out}{err}");
        out.into_owned()
    }

    /// Every path in it, with its mode and, for a file, its bytes.
    fn tree(&self) -> BTreeMap<String, (u32, Vec<u8>)> {
        fn walk(at: &Path, found: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(at).expect("a folder").flatten() {
                found.push(entry.path());
                if entry.path().is_dir() {
                    walk(&entry.path(), found);
                }
            }
        }
        let mut found = Vec::new();
        walk(self.folder.path(), &mut found);
        let describe = |path: &PathBuf| {
            let name = path.strip_prefix(self.folder.path()).expect("below it").to_string_lossy().into_owned();
            let mode = fs::metadata(path).expect("there").permissions().mode() & 0o7777;
            (format!("/{name}"), (mode, fs::read(path).unwrap_or_default()))
        };
        found.iter().map(describe).collect()
    }
}

#[test]
fn a_dry_run_says_what_it_would_do_and_changes_nothing() {
    let destination = Destination::new();
    let said = destination.run("install.sh", &["--dry-run"]);
    for path in ["/usr/local/bin/dbufd\n", "/lib/systemd/system/dbufd.service\n", "/man/man1/dbufctl-cat.1.gz\n"] {
        assert!(said.contains(path), "{path} is not in: {said}");
    }
    assert_eq!(destination.tree(), BTreeMap::new());
    destination.run("install.sh", &[]);
    let before = destination.tree();
    let said = destination.run("uninstall.sh", &["--dry-run"]);
    assert!(said.contains("would remove") && said.contains("/usr/local/bin/dbufd\n"), "{said}");
    assert_eq!(destination.tree(), before);
}

#[test]
fn installing_twice_is_installing_once_and_uninstalling_leaves_nothing() {
    for prefix in ["/usr/local", "/usr", "/opt/dbufd-1.0"] {
        let destination = Destination::new();
        let prefix = format!("PREFIX={prefix}");
        destination.run("install.sh", &[&prefix]);
        let once = destination.tree();
        assert_eq!(destination.run("install.sh", &[&prefix]), "", "there is nothing to do");
        assert_eq!(destination.tree(), once);
        destination.run("uninstall.sh", &[&prefix]);
        assert_eq!(destination.tree(), BTreeMap::new());
        let said = destination.run("uninstall.sh", &[&prefix]);
        assert!(said.starts_with("nothing is installed"), "{said}");
    }
}

#[test]
fn every_file_is_where_the_list_says_with_its_mode() {
    let destination = Destination::new();
    destination.run("install.sh", &["PREFIX=/usr"]);
    let mut tree = destination.tree();
    tree.retain(|path, _| !destination.path(path).is_dir());
    assert!(tree.remove("/usr/share/dbufd/installed").is_some(), "there is a record");
    for (path, (_, mode)) in listed("/usr/share/zsh/site-functions") {
        let (folder, name) = path.rsplit_once('/').expect("a path");
        let (before, after) = name.split_once('*').unwrap_or((name, ""));
        let is_it = |candidate: &str| {
            candidate.strip_prefix(&format!("{folder}/{before}")).is_some_and(|rest| {
                rest.ends_with(after) && !rest.contains('/') && (name.contains('*') || rest.is_empty())
            })
        };
        let found: Vec<String> = tree.keys().filter(|path| is_it(path)).cloned().collect();
        assert!(!found.is_empty(), "{path} is not installed");
        for file in found {
            let (is, bytes) = tree.remove(&file).expect("it is there");
            assert_eq!(format!("{is:o}"), mode, "{file}");
            assert!(!bytes.is_empty(), "{file} is empty");
        }
    }
    assert!(tree.is_empty(), "not on the list: {:?}", tree.keys());
}

#[test]
fn the_unit_names_the_programs_where_they_were_installed() {
    for (prefix, systemd) in [("/usr/local", "/usr/local/lib"), ("/usr", "/usr/lib"), ("/opt/d", "/etc")] {
        let destination = Destination::new();
        destination.run("install.sh", &[&format!("PREFIX={prefix}")]);
        let unit = destination.path(&format!("{systemd}/systemd/system/dbufd.service"));
        let unit = fs::read_to_string(unit).expect("the unit");
        let commands: Vec<&str> = unit.lines().filter(|line| line.starts_with("Exec")).collect();
        let start = format!("ExecStart={prefix}/bin/dbufd");
        assert_eq!(commands, [&start, &format!("ExecReload={prefix}/bin/dbufctl reload")[..]]);
        assert!(destination.path(&format!("{prefix}/bin/dbufctl")).is_file());
    }
}

#[test]
fn configuration_that_is_there_is_never_overwritten_and_stays_when_it_was_changed() {
    let destination = Destination::new();
    let config = destination.path("/etc/dbufd/dbufd.toml");
    fs::create_dir_all(config.parent().expect("a folder")).expect("a folder");
    fs::write(&config, "# mine\n").expect("a file");
    let before = destination.tree();
    let said = destination.run("install.sh", &[]);
    assert!(said.contains("stays as it is"), "{said}");
    assert_eq!(fs::read_to_string(&config).expect("a file"), "# mine\n");
    let new = destination.path("/etc/dbufd/dbufd.toml.new");
    let shipped = fs::read(root().join("etc/dbufd.toml")).expect("a file");
    assert_eq!(fs::read(&new).expect("the new one is beside it"), shipped);
    destination.run("uninstall.sh", &[]);
    assert_eq!(destination.tree(), before, "what was there before is there, and nothing else");

    // One that install.sh has put there, and that was changed since.
    fs::remove_file(&config).expect("it was there");
    destination.run("install.sh", &[]);
    fs::write(&config, "# changed\n").expect("a file");
    destination.run("install.sh", &[]);
    let said = destination.run("uninstall.sh", &[]);
    assert!(said.contains("/etc/dbufd/dbufd.toml, because it was changed"), "{said}");
    assert_eq!(destination.tree().keys().collect::<Vec<_>>(), ["/etc", "/etc/dbufd", "/etc/dbufd/dbufd.toml"]);
}

#[test]
fn uninstalling_keeps_the_segments_and_names_them() {
    let destination = Destination::new();
    destination.run("install.sh", &[]);
    let segment = destination.path("/var/log/dbufd/00000000000000000001.segment");
    fs::create_dir_all(segment.parent().expect("a folder")).expect("a folder");
    fs::write(&segment, "events").expect("a file");
    let said = destination.run("uninstall.sh", &[]);
    assert!(said.contains("/var/log/dbufd (segments: 1,"), "{said}");
    assert!(segment.is_file());
}

#[test]
fn what_an_earlier_version_had_and_this_one_has_not_goes() {
    let destination = Destination::new();
    destination.run("install.sh", &[]);
    let old = destination.path("/usr/local/bin/dbufold");
    fs::write(&old, "old").expect("a file");
    let record = destination.path("/usr/local/share/dbufd/installed");
    let mut text = fs::read_to_string(&record).expect("a record");
    text.push_str("file 00 /usr/local/bin/dbufold\n");
    fs::write(&record, text).expect("a record");
    destination.run("install.sh", &[]);
    assert!(!old.exists());
}

#[test]
fn a_wrong_argument_is_refused_and_nothing_is_changed() {
    let destination = Destination::new();
    for (script, wrong) in [
        ("install.sh", "--nonsense"),
        ("install.sh", "PREFIX=relative"),
        ("install.sh", "PREFIX=/with a blank"),
        ("install.sh", "PREFIX=/usr/../.."),
        ("uninstall.sh", "PREFIX="),
        ("uninstall.sh", "dbufd"),
    ] {
        let output = destination.script(script, &[wrong]);
        assert_eq!(output.status.code(), Some(2), "{script} {wrong}");
        assert_eq!(String::from_utf8_lossy(&output.stderr).lines().count(), 1, "one line says why");
        assert_eq!(destination.tree(), BTreeMap::new());
    }
}

#[test]
fn every_script_has_a_syntax_that_its_shell_knows() {
    let scripts = ["install.sh", "uninstall.sh", "common.sh", "generate", "debian/postinst", "debian/prerm"];
    let scripts = [&scripts[..], &["debian/postrm", "rpm/post", "rpm/preun", "rpm/postun"]].concat();
    let checked = |program: &str, arguments: &[&str]| {
        let Ok(output) = Command::new(program).args(arguments).current_dir(root().join("packaging")).output() else {
            return; // shellcheck is not everywhere
        };
        let said = String::from_utf8_lossy(if output.stdout.is_empty() { &output.stderr } else { &output.stdout });
        assert!(output.status.success(), "{program} {arguments:?}: {said}");
    };
    for script in scripts {
        checked("sh", &["-n", script]);
        checked("shellcheck", &["--shell=sh", "--external-sources", script]);
    }
    checked("bash", &["-n", "build"]);
    checked("shellcheck", &["build"]);
}
