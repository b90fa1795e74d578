//! File systems of their own, in files: made, mounted and gone again. This takes root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

pub fn ok(program: &str, args: &[&str]) -> String {
    let ran = Command::new(program).args(args).output();
    let ran = ran.unwrap_or_else(|e| panic!("{program}: {e}; .ci/need installs it"));
    assert!(
        ran.status.success(),
        "{program} {args:?} (as root?): {}",
        String::from_utf8_lossy(&ran.stderr)
    );
    String::from_utf8_lossy(&ran.stdout).trim().to_owned()
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A mounted file system.
pub struct Mounted {
    pub at: PathBuf,
    /// The file that holds it.
    pub image: PathBuf,
}

impl Mounted {
    /// Makes one: `kind` is `ext4` or `xfs`.
    pub fn new(dir: &Path, name: &str, kind: &str, mib: u64) -> Self {
        let image = dir.join(format!("{name}.img"));
        fs::File::create(&image)
            .unwrap()
            .set_len(mib << 20)
            .unwrap();
        ok(&format!("mkfs.{kind}"), &["-q", text(&image)]);
        let at = dir.join(name);
        Self::of(&image, &at, "rw")
    }

    /// Mounts an image that is there.
    pub fn of(image: &Path, at: &Path, options: &str) -> Self {
        fs::create_dir_all(at).unwrap();
        ok(
            "mount",
            &["-o", &format!("loop,{options}"), text(image), text(at)],
        );
        Self {
            at: at.to_owned(),
            image: image.to_owned(),
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Whatever the test's end was, no mount stays behind.
        let _ = Command::new("umount").arg(&self.at).status();
    }
}

/// A loop device.
pub struct Device(pub PathBuf);

impl Device {
    pub fn of(image: &Path) -> Self {
        Self(ok("losetup", &["--find", "--show", text(image)]).into())
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.0).status();
    }
}

/// Directories mounted a second time.
pub struct Bound(pub PathBuf);

impl Bound {
    pub fn new(from: &Path, to: &Path) -> Self {
        ok("mount", &["--bind", text(from), text(to)]);
        Self(to.to_owned())
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}
