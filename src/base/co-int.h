/* What the coroutine primitives share. */
#pragma once
#include "src/base/coroutine.h"

/* In the coroutine's own thread: enters it now or, if it runs (a nested loop of it called us), as
 * soon as it has yielded. */
void co_resume(Coroutine *co);
