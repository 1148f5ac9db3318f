//! Decompression of a stream of any length in bounded memory.

use zstd::stream::raw::{Decoder, InBuffer, Operation, OutBuffer};
use zstd::zstd_safe::DParameter;

use crate::error::{Error, Result};

/// Longest distance that a compressed stream may look back, as a power of two: the memory that its reader needs.
pub const STREAM_WINDOW_LOG: u32 = 19;
/// Bytes that are handed out at a time.
const PIECE: usize = 32 << 10;

/// Reads one zstd frame, piece by piece.
pub struct Inflater {
    zstd: Decoder<'static>,
    out: Box<[u8]>,
    ended: bool,
}

impl Inflater {
    /// A reader of one frame.
    pub fn new() -> Result<Self> {
        let fail = |e: std::io::Error| Error::internal(format!("zstd: {e}"));
        let mut zstd = Decoder::new().map_err(fail)?;
        zstd.set_parameter(DParameter::WindowLogMax(STREAM_WINDOW_LOG))
            .map_err(fail)?;
        Ok(Inflater {
            zstd,
            out: vec![0; PIECE].into(),
            ended: false,
        })
    }

    /// Takes the next bytes and hands out what they contain.
    pub fn inflate(&mut self, bytes: &[u8], on: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut input = InBuffer::around(bytes);
        loop {
            if self.ended {
                return match input.pos() == bytes.len() {
                    true => Ok(()),
                    false => Err(Error::protocol("bytes behind the end of a compressed answer")),
                };
            }
            let mut output = OutBuffer::around(&mut self.out[..]);
            let hint = self
                .zstd
                .run(&mut input, &mut output)
                .map_err(|e| Error::protocol(format!("the answer to a pull cannot be decompressed: {e}")))?;
            let full = output.pos() == PIECE;
            on(output.as_slice())?;
            self.ended = hint == 0;
            // With a full buffer there may be more that needs no further input.
            if !self.ended && !full && input.pos() == bytes.len() {
                return Ok(());
            }
        }
    }

    /// The frame is complete.
    pub fn has_ended(&self) -> bool {
        self.ended
    }
}
