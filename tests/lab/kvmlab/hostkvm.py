"""Whether this machine's own KVM can run stock kernels."""
import os


def why_not():
    """None where it can; else the reason, as the end of a sentence."""
    if not os.path.exists("/dev/kvm"):
        return "this machine has no /dev/kvm"
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "this user may not open /dev/kvm (is it in the group kvm?)"
    with open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("flags"):
                if {"vmx", "svm"} & set(line.split()):
                    return None
                break
    return "this machine's KVM has neither VT-x nor SVM below it (PVM), so it cannot run stock kernels"
