//! Bytes as a source of decisions: what a fuzzer mutates becomes what a caller, a server or a file does.

/// Reads decisions off the front. Behind the end everything is zero, so every input means something.
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Input(bytes)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn u8(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.u8(), self.u8()])
    }

    pub fn u32(&mut self) -> u32 {
        u32::from(self.u16()) | u32::from(self.u16()) << 16
    }

    pub fn u64(&mut self) -> u64 {
        u64::from(self.u32()) | u64::from(self.u32()) << 32
    }

    /// A number that is often small and sometimes at an edge.
    pub fn number(&mut self) -> u64 {
        match self.u8() {
            n @ 0..=199 => n.into(),
            200..=219 => self.u16().into(),
            220..=234 => self.u32().into(),
            235..=244 => self.u64(),
            245..=249 => u64::MAX - u64::from(self.u8()),
            250..=252 => u64::from(u32::MAX) - u64::from(self.u8()),
            _ => 1 << (self.u8() % 64),
        }
    }

    /// True in about one of `n` cases; false at the end of the input.
    pub fn one_in(&mut self, n: u8) -> bool {
        self.u8() % n == n - 1
    }

    pub fn pick<'b, T>(&mut self, of: &'b [T]) -> &'b T {
        &of[usize::from(self.u8()) % of.len()]
    }

    /// Up to `n` bytes.
    pub fn take(&mut self, n: usize) -> &'a [u8] {
        let (head, tail) = self.0.split_at(n.min(self.0.len()));
        self.0 = tail;
        head
    }

    /// As many bytes as the next byte says.
    pub fn bytes(&mut self) -> &'a [u8] {
        let n = self.u8();
        self.take(n.into())
    }

    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}
