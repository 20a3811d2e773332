//! What a run notes of where it runs: what the file system lacks, and which kernels were chosen.

use anyhow::Result;

use super::Training;
use crate::backend::Backend;
use crate::files::{self, Lack};
use crate::output::print_error_line;
use crate::text;

impl<B: Backend> Training<'_, B> {
    /// Says what the file system does not have, each once.
    pub(super) fn tell_lacks(&self) {
        for lack in files::untold_lacks() {
            let text = match lack {
                Lack::Locks => {
                    "files cannot be locked: see to it that no other process trains here"
                }
                Lack::Links => {
                    "there are no symbolic links: checkpoints/latest is a file with the name of the newest checkpoint"
                }
                Lack::FolderSync => {
                    "folders cannot be synced: a power cut may cost the checkpoint that was written last"
                }
            };
            if !self.quiet {
                let run = text::shown(self.claim.run());
                print_error_line(format!("note: in the file system of {run} {text}"));
            }
        }
    }

    /// Later runs can repeat the choice of kernels, and a resumed one does. Training goes on without.
    pub(super) fn write_choices(&mut self) {
        let written = match self.backend.choices() {
            Ok(Some(choices)) => choices.write(self.claim.home()),
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        self.note_choices(written);
    }

    /// Takes in whether they were written.
    pub(super) fn note_choices(&mut self, written: Result<()>) {
        if let Err(error) = written {
            self.tell_unwritten(&error, self.unwritten.choices.is_some());
            self.unwritten.choices.get_or_insert(error);
        }
    }
}
