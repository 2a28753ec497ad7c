//! Machine code of x86-64 with AVX-512, as much of it as generated kernels need, and the memory it runs in.
//!
//! Encodings are those of Intel's Software Developer's Manual, volume 2; a function is called as the System V ABI has it.

use memmap2::{Mmap, MmapOptions};

/// A register with an address: the arguments of a function and one that it may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Base {
    /// `rax`.
    Cursor = 0,
    /// `rdx`, the third argument.
    Third = 2,
    /// `rsi`, the second argument.
    Second = 6,
    /// `rdi`, the first argument.
    First = 7,
    /// `r8`, the fifth argument.
    Fifth = 8,
}

/// Where an instruction has its last operand.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Operand {
    Vector(u8),
    /// A vector from so many bytes behind an address on.
    Memory(Base, i32),
    /// One value there, for all lanes.
    Value(Base, i32),
}

/// A jump whose end is not known yet.
#[must_use]
#[derive(Debug)]
pub(crate) struct Jump(usize);

/// An instruction's opcode: the map it is in, its mandatory prefix, its number.
type Opcode = [u8; 3];

const LOAD: Opcode = [1, 0, 0x10];
const STORE: Opcode = [1, 0, 0x11];
const ADD: Opcode = [1, 0, 0x58];
const MIN: Opcode = [1, 0, 0x5d];
const MAX: Opcode = [1, 0, 0x5f];
const SPLAT: Opcode = [2, 1, 0x18];
const MULTIPLY_ADD: Opcode = [2, 1, 0xb8];
const ALIGN: Opcode = [3, 1, 0x03];

/// Appends instructions on vectors of 16 f32, `zmm0` to `zmm31`.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    bytes: Vec<u8>,
}

impl Assembler {
    /// Where a function begins that is appended now, on a cache line.
    pub(crate) fn begin(&mut self) -> usize {
        const TRAP: u8 = 0xcc;
        self.bytes.resize(self.bytes.len().next_multiple_of(64), TRAP);
        self.bytes.len()
    }

    /// `vector = memory`, 0 in the lanes that the mask `kept` has not; mask 0 stands for all lanes.
    pub(crate) fn load(&mut self, vector: u8, base: Base, bytes: i32, kept: u8) {
        self.vector(LOAD, vector, 0, Operand::Memory(base, bytes), kept);
    }

    /// `memory = vector`, in the lanes that the mask `kept` has; mask 0 stands for all lanes.
    pub(crate) fn store(&mut self, vector: u8, base: Base, bytes: i32, kept: u8) {
        self.vector(STORE, vector, 0, Operand::Memory(base, bytes), kept);
    }

    /// `vector = value in memory`, in all lanes.
    pub(crate) fn splat(&mut self, vector: u8, base: Base, bytes: i32) {
        self.vector(SPLAT, vector, 0, Operand::Value(base, bytes), 0);
    }

    /// `sum += memory`.
    pub(crate) fn add(&mut self, sum: u8, base: Base, bytes: i32) {
        self.vector(ADD, sum, sum, Operand::Memory(base, bytes), 0);
    }

    /// `sum += vector * value in memory`, with one rounding.
    pub(crate) fn multiply_add(&mut self, sum: u8, vector: u8, base: Base, bytes: i32) {
        self.vector(MULTIPLY_ADD, sum, vector, Operand::Value(base, bytes), 0);
    }

    /// `vector = ` the lanes of `before` from lane `lanes` on, then the first `lanes` of `after`; 0 in the lanes that the mask `kept` has
    /// not; mask 0 stands for all lanes.
    pub(crate) fn align(&mut self, vector: u8, before: Operand, after: u8, lanes: u8, kept: u8) {
        self.vector(ALIGN, vector, after, before, kept);
        self.bytes.push(lanes);
    }

    /// `vector = max(vector, bound)`; NaN stays NaN.
    pub(crate) fn max(&mut self, vector: u8, bound: u8) {
        self.vector(MAX, vector, bound, Operand::Vector(vector), 0);
    }

    /// `vector = min(vector, bound)`; NaN stays NaN.
    pub(crate) fn min(&mut self, vector: u8, bound: u8) {
        self.vector(MIN, vector, bound, Operand::Vector(vector), 0);
    }

    /// Mask `mask`, 1 to 7, is the low 16 bits of the fourth argument, which is then shifted by as many.
    pub(crate) fn take_mask(&mut self, mask: u8) {
        self.bytes.extend([0xc5, 0xf8, 0x92, 0xc1 | mask << 3]);
        self.bytes.extend([0x48, 0xc1, 0xe9, 16]);
    }

    /// The cursor lies `bytes` behind the third argument.
    pub(crate) fn set_cursor(&mut self, bytes: i32) {
        self.bytes.extend([0x48, 0x8d, 0x82]);
        self.bytes.extend(bytes.to_le_bytes());
    }

    /// Jumps where the fourth argument has none of `bits`.
    pub(crate) fn jump_without(&mut self, bits: u32) -> Jump {
        self.bytes.extend([0xf7, 0xc1]);
        self.bytes.extend(bits.to_le_bytes());
        self.bytes.extend([0x0f, 0x84, 0, 0, 0, 0]);
        Jump(self.bytes.len())
    }

    /// Where a jump ends.
    pub(crate) fn land(&mut self, Jump(from): Jump) {
        let distance = i32::try_from(self.bytes.len() - from).expect("a function of less than 2 GiB");
        self.bytes[from - 4..from].copy_from_slice(&distance.to_le_bytes());
    }

    /// Ends a function.
    pub(crate) fn end(&mut self) {
        self.bytes.extend([0xc5, 0xf8, 0x77, 0xc3]);
    }

    /// The code in memory that may run and not be written, if the system gives it.
    pub(crate) fn finish(self) -> Option<Mmap> {
        let mut memory = MmapOptions::new().len(self.bytes.len().max(1)).map_anon().ok()?;
        memory[..self.bytes.len()].copy_from_slice(&self.bytes);
        memory.make_exec().ok()
    }

    /// An instruction with the prefix EVEX, on whole vectors.
    fn vector(&mut self, [map, prefix, number]: Opcode, vector: u8, source: u8, operand: Operand, kept: u8) {
        // The higher bits of registers are stored inverted.
        let inverted = |register: u8, bit: u8| !(register >> bit) & 1;
        let (index, base) = match operand {
            Operand::Vector(register) => (inverted(register, 4), inverted(register, 3)),
            Operand::Memory(base, _) | Operand::Value(base, _) => (1, inverted(base as u8, 3)),
        };
        let is_value = matches!(operand, Operand::Value(..));
        // A splat broadcasts by itself.
        let broadcasts = u8::from(is_value && number != SPLAT[2]);
        self.bytes.extend([
            0x62,
            inverted(vector, 3) << 7 | index << 6 | base << 5 | inverted(vector, 4) << 4 | map,
            (!source & 15) << 3 | 4 | prefix,
            u8::from(kept > 0 && number != STORE[2]) << 7 | 2 << 5 | broadcasts << 4 | inverted(source, 4) << 3 | kept,
            number,
        ]);
        let (base, bytes) = match operand {
            Operand::Vector(register) => {
                self.bytes.push(0xc0 | (vector & 7) << 3 | register & 7);
                return;
            }
            Operand::Memory(base, bytes) | Operand::Value(base, bytes) => (base as u8 & 7, bytes),
        };
        // Distances of one byte count values or vectors.
        let unit = if is_value { 4 } else { 64 };
        let registers = (vector & 7) << 3 | base;
        match i8::try_from(bytes / unit) {
            Ok(units) if bytes % unit == 0 => self.bytes.extend([0x40 | registers, units as u8]),
            _ => {
                self.bytes.push(0x80 | registers);
                self.bytes.extend(bytes.to_le_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `as` of the GNU binutils makes of the instructions on the right, as `objdump -d` shows it.
    #[test]
    fn instructions_are_those_of_an_assembler() {
        let a = &mut Assembler::default();
        let mut check = |write: &dyn Fn(&mut Assembler), instruction: &str, expected: &[u8]| {
            a.bytes.clear();
            write(a);
            assert_eq!(a.bytes, expected, "{instruction}: {:02x?}", a.bytes);
        };
        use Base::{Cursor, Fifth, First, Second, Third};
        check(&|a| a.load(5, First, 0x40, 0), "vmovups zmm5, [rdi+0x40]", &[0x62, 0xf1, 0x7c, 0x48, 0x10, 0x6f, 1]);
        check(
            &|a| a.load(31, First, 0x12345, 2),
            "vmovups zmm31{k2}{z}, [rdi+0x12345]",
            &[0x62, 0x61, 0x7c, 0xca, 0x10, 0xbf, 0x45, 0x23, 1, 0],
        );
        check(
            &|a| a.load(9, First, -0x2000, 1),
            "vmovups zmm9{k1}{z}, [rdi-0x2000]",
            &[0x62, 0x71, 0x7c, 0xc9, 0x10, 0x4f, 0x80],
        );
        check(
            &|a| a.store(17, Second, 0x123440, 0),
            "vmovups [rsi+0x123440], zmm17",
            &[0x62, 0xe1, 0x7c, 0x48, 0x11, 0x8e, 0x40, 0x34, 0x12, 0],
        );
        check(
            &|a| a.store(3, Second, 0x40, 4),
            "vmovups [rsi+0x40]{k4}, zmm3",
            &[0x62, 0xf1, 0x7c, 0x4c, 0x11, 0x5e, 1],
        );
        check(
            &|a| a.splat(3, Third, 0x1fc),
            "vbroadcastss zmm3, [rdx+0x1fc]",
            &[0x62, 0xf2, 0x7d, 0x48, 0x18, 0x5a, 0x7f],
        );
        check(
            &|a| a.splat(28, Third, 0x200),
            "vbroadcastss zmm28, [rdx+0x200]",
            &[0x62, 0x62, 0x7d, 0x48, 0x18, 0xa2, 0, 2, 0, 0],
        );
        check(&|a| a.add(20, Fifth, 0x80), "vaddps zmm20, zmm20, [r8+0x80]", &[0x62, 0xc1, 0x5c, 0x40, 0x58, 0x60, 2]);
        check(
            &|a| a.multiply_add(0, 28, Cursor, -0x200),
            "vfmadd231ps zmm0, zmm28, [rax-0x200]{1to16}",
            &[0x62, 0xf2, 0x1d, 0x50, 0xb8, 0x40, 0x80],
        );
        check(
            &|a| a.multiply_add(27, 31, Cursor, 0x1fc),
            "vfmadd231ps zmm27, zmm31, [rax+0x1fc]{1to16}",
            &[0x62, 0x62, 5, 0x50, 0xb8, 0x58, 0x7f],
        );
        check(
            &|a| a.align(29, Operand::Memory(First, -0x40), 28, 15, 2),
            "valignd zmm29{k2}{z}, zmm28, [rdi-0x40], 15",
            &[0x62, 0x63, 0x1d, 0xc2, 3, 0x6f, 0xff, 15],
        );
        check(
            &|a| a.align(30, Operand::Vector(28), 30, 1, 0),
            "valignd zmm30, zmm30, zmm28, 1",
            &[0x62, 3, 0x0d, 0x40, 3, 0xf4, 1],
        );
        check(&|a| a.max(4, 28), "vmaxps zmm4, zmm28, zmm4", &[0x62, 0xf1, 0x1c, 0x40, 0x5f, 0xe4]);
        check(&|a| a.min(26, 29), "vminps zmm26, zmm29, zmm26", &[0x62, 1, 0x14, 0x40, 0x5d, 0xd2]);
        check(&|a| a.take_mask(2), "kmovw k2, ecx; shr rcx, 16", &[0xc5, 0xf8, 0x92, 0xd1, 0x48, 0xc1, 0xe9, 0x10]);
        check(&|a| a.set_cursor(0x12345678), "lea rax, [rdx+0x12345678]", &[0x48, 0x8d, 0x82, 0x78, 0x56, 0x34, 0x12]);
        let jump = |a: &mut Assembler| {
            let jump = a.jump_without(0x100);
            a.end();
            a.land(jump);
        };
        let expected = [0xf7, 0xc1, 0, 1, 0, 0, 0x0f, 0x84, 4, 0, 0, 0, 0xc5, 0xf8, 0x77, 0xc3];
        check(&jump, "test ecx, 0x100; jz behind; vzeroupper; ret", &expected);
    }
}
