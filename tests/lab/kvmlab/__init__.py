"""The KVM lab: stock Debian kernels as emulated KVM hosts and as their guests."""
