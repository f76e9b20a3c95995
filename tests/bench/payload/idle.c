/* The smallest guest: it has said its first byte, and halts. */
void payload_main(void);

void payload_main(void)
{
}
