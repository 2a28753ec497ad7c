//! Passes that the compiler vectorizes, compiled once a tier.

/// Defines a function `name(isa, ...)` whose body is compiled once for any CPU and once with AVX2, where the compiler
/// vectorizes it. Meant for passes bound by memory: wider vectors would gain nothing.
macro_rules! tiered {
    ($(#[$attribute:meta])* pub fn $name:ident($($argument:ident: $type:ty),* $(,)?) $body:block) => {
        $(#[$attribute])*
        pub fn $name(isa: $crate::Isa, $($argument: $type),*) {
            #[inline(always)]
            fn body($($argument: $type),*) $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($argument: $type),*) {
                body($($argument),*)
            }

            match isa {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: both tiers exist only where the CPU has AVX2 and FMA.
                $crate::Isa::Avx2(_) | $crate::Isa::Avx512(_) => unsafe { avx2($($argument),*) },
                _ => body($($argument),*),
            }
        }
    };
}
pub(super) use tiered;
