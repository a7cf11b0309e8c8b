//! A small file system of its own for each node, on a loop device over a file: it can really be full. Unmounted at the end.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::network::sh;

const BYTES: u64 = 512 << 20;

/// See the module.
pub(super) struct Disk {
    mount: PathBuf,
}

fn text(path: &Path) -> Result<&str, String> {
    path.to_str().ok_or_else(|| "the folder's name is not UTF-8".to_owned())
}

impl Disk {
    pub(super) fn new(folder: &Path) -> Result<Self, String> {
        let (image, mount) = (folder.join("image"), folder.join("disk"));
        fs::create_dir_all(&mount).map_err(|error| error.to_string())?;
        let file = fs::File::create(&image).map_err(|error| error.to_string())?;
        file.set_len(BYTES).map_err(|error| error.to_string())?;
        drop(file);
        sh("mkfs.ext4", &["-q", "-F", text(&image)?])?;
        sh("mount", &["-o", "loop", text(&image)?, text(&mount)?])?;
        Ok(Self { mount })
    }

    pub(super) fn path(&self) -> &Path {
        &self.mount
    }

    fn ballast(&self) -> PathBuf {
        self.mount.join("ballast")
    }

    /// Takes all room but `left` bytes.
    pub(super) fn fill(&self, left: u64) -> Result<(), String> {
        let stat = rustix::fs::statvfs(&self.mount).map_err(|error| error.to_string())?;
        let bytes = (stat.f_bavail * stat.f_frsize).saturating_sub(left);
        let file = fs::File::create(self.ballast()).map_err(|error| error.to_string())?;
        let flags = rustix::fs::FallocateFlags::empty();
        // The node takes the last bytes at the same time: then less is there than a moment ago, which is full enough.
        let _ = rustix::fs::fallocate(&file, flags, 0, bytes.max(1));
        Ok(())
    }

    pub(super) fn free(&self) -> Result<(), String> {
        match fs::remove_file(self.ballast()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.to_string()),
            _ => Ok(()),
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Ok(mount) = text(&self.mount)
            && sh("umount", &[mount]).is_err()
        {
            // A process that is about to end still holds it.
            let _ = sh("umount", &["-l", mount]);
        }
    }
}
