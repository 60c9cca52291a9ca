import { Dialog, Heading, Modal, ModalOverlay } from "react-aria-components";
import { useStore } from "../env/store";
import { bindings } from "./keys";

/** The keys that work in the views that are open now. */
export function KeyHelp({ open, onClose }: { open: boolean; onClose: () => void }) {
  const bound = useStore(bindings);
  const shown = bound.filter((binding, place) => bound.findIndex((other) => other.key === binding.key) === place);
  return (
    <ModalOverlay isOpen={open} onOpenChange={(now) => (now ? undefined : onClose())} isDismissable className="overlay">
      <Modal className="dialog">
        <Dialog>
          <Heading slot="title">Keys</Heading>
          <dl className="facts">
            {shown.map((binding) => (
              <div key={binding.key}>
                <dt>
                  <kbd>{binding.key}</kbd>
                </dt>
                <dd>{binding.does}</dd>
              </div>
            ))}
          </dl>
        </Dialog>
      </Modal>
    </ModalOverlay>
  );
}
